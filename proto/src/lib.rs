//! The wire: generated messages and services (`v1`), and the only conversions between them and
//! `common`'s meaning (`convert`). Holds no logic and opens no sockets.

pub mod convert;

/// Generated from `proto/rustspeed/v1/*.proto`.
#[allow(
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("rustspeed.v1");
}

/// The `.proto` files as a serialized `FileDescriptorSet`: what gRPC reflection answers with.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Every method of ours, such as `rustspeed.v1.Coordinator/Submit`.
pub const METHODS: &[&str] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));
