mod backoff;
mod chassis;
mod layers;
mod transport;
