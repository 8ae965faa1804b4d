//! Sums of gradients that travel as bytes: each block of [`BLOCK`] numbers as one scale and a
//! signed byte a number.
//!
//! Every rank sends each other rank its share of the bucket, packed; each sums its own share in
//! rank order, in fp32; where every rank needs the whole sum (stage 0), the shares are packed once
//! more and gathered. A rank sends about Ψ(W-1)/W bytes for Ψ gradients where fp32 sends four times
//! as many, and at stage 0 twice that, where fp32 sends eight times as many.
//!
//! Promise: what rounding takes from a gradient is kept, and added to the next one of the same
//! place (error feedback), so no part of a gradient is lost, only late; all ranks unpack the same
//! bytes and so hold the same bits. What is not finite stays so and leaves nothing behind. Refusal:
//! the rest of rounding lives in memory alone: a run that is resumed starts without it. Runs on the
//! training thread, so it does not overlap with backward.

use collectives::{Communicator, Error};

use crate::numbers::Numbers;
use crate::storage::Storage;
use crate::zero::layout::Layout;
use crate::zero::link::Flight;

/// Numbers that share a scale: 4 bytes in 260 are scales.
const BLOCK: usize = 256;

const SCALE_BYTES: usize = size_of::<f32>();

#[derive(Debug)]
pub(crate) struct Compressor {
    rank: usize,
    /// What rounding took from this rank's gradients, by bucket.
    residuals: Vec<Vec<f32>>,
    /// What it took from the sums that this rank passes on, by bucket; grown at stage 0 alone.
    sum_residuals: Vec<Vec<f32>>,
}

impl Compressor {
    pub(crate) fn new(layout: &Layout, rank: usize) -> Self {
        // What is not trained is never summed.
        let trained = layout.trained();
        let residuals = trained.iter().map(|bucket| vec![0.0; bucket.len]).collect();
        Self { rank, residuals, sum_residuals: vec![Vec::new(); trained.len()] }
    }

    /// Bytes of what it remembers.
    pub(crate) fn bytes_held(&self) -> usize {
        let all = self.residuals.iter().chain(&self.sum_residuals);
        all.map(|rest| size_of_val(&**rest)).sum()
    }

    /// The sum of a bucket over all ranks, as [`super::link::Link::start_sum`] gives it. Collective.
    pub(crate) fn sum(
        &mut self,
        communicator: &mut Communicator,
        bucket: usize,
        (mut input, mut output): (Storage, Option<Storage>),
    ) -> Result<Flight, Error> {
        let Storage::Host(Numbers::Fp32(values)) = &mut input else {
            unreachable!("compressed gradients are on the host and fp32 until they leave")
        };
        let world = communicator.world() as usize;
        let part = values.len() / world;
        let shares = values.chunks_exact(part).zip(self.residuals[bucket].chunks_exact_mut(part));
        let mut packets: Vec<Vec<u8>> = shares.map(|(share, rest)| pack(share, rest)).collect();
        exchange(communicator, self.rank, &mut packets)?;
        // In rank order, as every sum here.
        let mut sum = vec![0.0; part];
        packets.iter().for_each(|packet| unpack(packet, &mut sum, |sum, value| *sum += value));
        match &mut output {
            Some(Storage::Host(Numbers::Fp32(output))) => output.copy_from_slice(&sum),
            Some(_) => unreachable!("a sum lands as what it was made of"),
            None => {
                let rest = &mut self.sum_residuals[bucket];
                rest.resize(part, 0.0);
                let packet = pack(&sum, rest);
                let mut gathered = vec![0; packet.len() * world];
                communicator.all_gather(&packet, &mut gathered)?;
                let packets = gathered.chunks_exact(packet.len());
                for (packet, share) in packets.zip(values.chunks_exact_mut(part)) {
                    unpack(packet, share, |target, value| *target = value);
                }
            }
        }
        Ok(Flight::landed(bucket, input, output))
    }
}

/// Sends each rank its packet and puts what came from it in the packet's place. Pairs meet in one
/// order everywhere, the lower rank sends first: nobody waits in a circle.
fn exchange(
    communicator: &mut Communicator,
    rank: usize,
    packets: &mut [Vec<u8>],
) -> Result<(), Error> {
    for (peer, packet) in packets.iter_mut().enumerate().filter(|(peer, _)| *peer != rank) {
        let mut received = vec![0; packet.len()];
        if rank < peer {
            communicator.send(peer as u32, packet)?;
            communicator.recv(peer as u32, &mut received)?;
        } else {
            communicator.recv(peer as u32, &mut received)?;
            communicator.send(peer as u32, packet)?;
        }
        *packet = received;
    }
    Ok(())
}

/// Scale and bytes of each block of `values` with what `rest` keeps of earlier ones.
fn pack(values: &[f32], rest: &mut [f32]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(values.len() + values.len().div_ceil(BLOCK) * SCALE_BYTES);
    for (values, rest) in values.chunks(BLOCK).zip(rest.chunks_mut(BLOCK)) {
        rest.iter_mut().zip(values).for_each(|(rest, value)| *rest += value);
        let is_finite = rest.iter().all(|value| value.is_finite());
        let largest = rest.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let scale = if is_finite { largest / 127.0 } else { f32::NAN };
        packet.extend_from_slice(&scale.to_le_bytes());
        // A subnormal scale has no inverse; then everything waits in the rest.
        let inverse = if scale >= f32::MIN_POSITIVE { scale.recip() } else { 0.0 };
        for rest in rest {
            // In range up to rounding, where `as` saturates.
            let byte = (*rest * inverse).round() as i8;
            packet.push(byte.cast_unsigned());
            *rest = if is_finite { *rest - f32::from(byte) * scale } else { 0.0 };
        }
    }
    packet
}

/// Hands each number of a packet to its place in `target`.
fn unpack(packet: &[u8], target: &mut [f32], put: impl Fn(&mut f32, f32)) {
    for (block, target) in packet.chunks(SCALE_BYTES + BLOCK).zip(target.chunks_mut(BLOCK)) {
        let (scale, bytes) = block.split_first_chunk().expect("a block begins with its scale");
        let scale = f32::from_le_bytes(*scale);
        for (target, byte) in target.iter_mut().zip(bytes) {
            put(target, f32::from(byte.cast_signed()) * scale);
        }
    }
}

#[cfg(test)]
mod tests;
