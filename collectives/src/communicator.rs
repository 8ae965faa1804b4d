//! The operations of one rank on one channel.

use crate::{DataType, Error, ReduceOp};

/// One channel's operations. Every rank must issue the same operations in the same order (A7);
/// `send` and `recv` are ordered per pair only.
#[derive(Debug)]
pub struct Communicator {}

impl Communicator {
    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        unimplemented!()
    }

    /// How many ranks there are.
    #[must_use]
    pub fn world(&self) -> u32 {
        unimplemented!()
    }

    /// Replaces `data` by the reduction over all ranks. Any length that is a whole number of elements.
    pub fn all_reduce(
        &mut self,
        _data: &mut [u8],
        _data_type: DataType,
        _op: ReduceOp,
    ) -> Result<(), Error> {
        unimplemented!()
    }

    /// Fills `output` with this rank's part of the reduction; `input` is `world` such parts.
    pub fn reduce_scatter(
        &mut self,
        _input: &[u8],
        _output: &mut [u8],
        _data_type: DataType,
        _op: ReduceOp,
    ) -> Result<(), Error> {
        unimplemented!()
    }

    /// Fills `output`, `world` parts, with every rank's `input` in rank order.
    pub fn all_gather(&mut self, _input: &[u8], _output: &mut [u8]) -> Result<(), Error> {
        unimplemented!()
    }

    /// [`Self::reduce_scatter`] within one buffer of `world` parts: this rank's part of the reduction
    /// replaces its part of `buffer`; the other parts are left unspecified.
    pub fn reduce_scatter_in_place(
        &mut self,
        _buffer: &mut [u8],
        _data_type: DataType,
        _op: ReduceOp,
    ) -> Result<(), Error> {
        unimplemented!()
    }

    /// [`Self::all_gather`] within one buffer of `world` parts, of which this rank's is in place.
    pub fn all_gather_in_place(&mut self, _buffer: &mut [u8]) -> Result<(), Error> {
        unimplemented!()
    }

    /// Replaces `data` by the root's.
    pub fn broadcast(&mut self, _data: &mut [u8], _root: u32) -> Result<(), Error> {
        unimplemented!()
    }

    /// Returns when every rank has come.
    pub fn barrier(&mut self) -> Result<(), Error> {
        unimplemented!()
    }

    /// Sends `data` to one peer, whose matching call is `recv` with the same length. Returns when
    /// the bytes are on their way, not when they are taken.
    pub fn send(&mut self, _to: u32, _data: &[u8]) -> Result<(), Error> {
        unimplemented!()
    }

    /// Receives what the peer's matching `send` sends.
    pub fn recv(&mut self, _from: u32, _data: &mut [u8]) -> Result<(), Error> {
        unimplemented!()
    }
}
