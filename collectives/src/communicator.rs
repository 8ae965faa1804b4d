//! The operations of one rank on one channel.
//!
//! Promises: arguments are checked before anything is sent; every header is compared with the peers'
//! (A7); an operation that fails ends the mesh for everybody, because the bytes on its links are no
//! longer in step. The order of bytes is `schedule`'s business, the sums are `reduce`'s.

#![expect(unsafe_code, reason = "buffers become spans for the length of one call")]

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    DataType, Error, OpKind, ReduceOp, Signature, Traffic, Whereabouts,
    header::Header,
    link::{Fabric, Span},
    mesh::Life,
    schedule::Schedule,
};

/// One channel's operations. Every rank must issue the same operations in the same order (A7);
/// `send` and `recv` are ordered per pair only.
#[derive(Debug)]
pub struct Communicator {
    // Before `life`, so that the links are gone when the mesh takes leave.
    fabric: Fabric,
    channel: u32,
    sequence: u64,
    /// Transfers begun to and from each peer.
    sent: Vec<u64>,
    received: Vec<u64>,
    scratch: crate::reduce::Scratch,
    observer: Option<Arc<dyn Observer>>,
    traffic: Arc<Traffic>,
    whereabouts: Arc<Whereabouts>,
    life: Arc<Life>,
}

/// Is told of every operation that has succeeded, on the thread that ran it.
pub trait Observer: fmt::Debug + Send + Sync {
    /// One operation; its buffers have what they should.
    fn completed(&self, signature: &Signature, cost: Cost);
}

/// What one operation cost this rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// From the operation's begin on this rank, so waiting for peers is in it.
    pub elapsed: Duration,
    /// Bytes of buffers that it sent, headers apart, as its links counted them.
    pub sent: u64,
}

impl Communicator {
    pub(crate) fn new(fabric: Fabric, life: Arc<Life>, channel: u32) -> Self {
        let world = fabric.shared.world as usize;
        let (sent, received) = (vec![0; world], vec![0; world]);
        let scratch = crate::reduce::Scratch::default();
        let traffic = Arc::default();
        Self {
            fabric,
            channel,
            sequence: 0,
            sent,
            received,
            scratch,
            traffic,
            whereabouts: Arc::new(Whereabouts::new(channel)),
            observer: None,
            life,
        }
    }

    /// Counts what this communicator sends, also while a thread of its own has it.
    #[must_use]
    pub fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }

    /// Where this communicator is, also while a thread of its own has it.
    #[must_use]
    pub fn whereabouts(&self) -> Arc<Whereabouts> {
        self.whereabouts.clone()
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.fabric.shared.rank
    }

    /// How many ranks there are.
    #[must_use]
    pub fn world(&self) -> u32 {
        self.fabric.shared.world
    }

    /// The channel of the mesh that this is.
    #[must_use]
    pub fn channel(&self) -> u32 {
        self.channel
    }

    /// The number of the operation that comes next.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Tells `observer` of every operation from now on.
    pub fn observe(&mut self, observer: Arc<dyn Observer>) {
        self.observer = Some(observer);
    }

    /// How long a wait polls before it sleeps. The default suits a rank that has a core for itself.
    pub fn set_spin(&mut self, spin: Duration) {
        self.fabric.set_spin(spin);
    }

    /// Replaces `data` by the reduction over all ranks. Any length that is a whole number of elements.
    pub fn all_reduce(
        &mut self,
        data: &mut [u8],
        data_type: DataType,
        op: ReduceOp,
    ) -> Result<(), Error> {
        let kind = OpKind::AllReduce;
        check_elements(kind, "data", data.len(), data_type)?;
        // SAFETY: the span is used within this call only, while `data` is borrowed.
        let span = unsafe { Span::from_slice_mut(data) };
        self.run(kind, data.len(), Some((data_type, op)), |schedule| schedule.all_reduce(span))
    }

    /// Fills `output` with this rank's part of the reduction; `input` is `world` such parts.
    pub fn reduce_scatter(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        data_type: DataType,
        op: ReduceOp,
    ) -> Result<(), Error> {
        let kind = OpKind::ReduceScatter;
        check_elements(kind, "output", output.len(), data_type)?;
        self.check_parts(kind, "input", input.len(), output.len())?;
        // SAFETY: the spans are used within this call only, the input for reading.
        let (from, to) = unsafe { (Span::from_slice(input), Span::from_slice_mut(output)) };
        self.run(kind, output.len(), Some((data_type, op)), |schedule| {
            schedule.reduce_scatter(from, to)
        })
    }

    /// [`Self::reduce_scatter`] within one buffer of `world` parts: this rank's part of the reduction
    /// replaces its part of `buffer`; the other parts are left as they were.
    pub fn reduce_scatter_in_place(
        &mut self,
        buffer: &mut [u8],
        data_type: DataType,
        op: ReduceOp,
    ) -> Result<(), Error> {
        let kind = OpKind::ReduceScatter;
        let part = self.part_of(kind, buffer.len(), data_type.size())?;
        let at = part * self.rank() as usize;
        // SAFETY: the spans are used within this call only, while `buffer` is borrowed.
        let all = unsafe { Span::from_slice_mut(buffer) };
        self.run(kind, part, Some((data_type, op)), |schedule| {
            schedule.reduce_scatter(all, all.range(at, at + part))
        })
    }

    /// Fills `output`, `world` parts, with every rank's `input` in rank order.
    pub fn all_gather(&mut self, input: &[u8], output: &mut [u8]) -> Result<(), Error> {
        let kind = OpKind::AllGather;
        self.check_parts(kind, "output", output.len(), input.len())?;
        let at = input.len() * self.rank() as usize;
        output[at..at + input.len()].copy_from_slice(input);
        // SAFETY: the span is used within this call only, while `output` is borrowed.
        let all = unsafe { Span::from_slice_mut(output) };
        self.run(kind, input.len(), None, |schedule| schedule.all_gather(all))
    }

    /// [`Self::all_gather`] within one buffer of `world` parts, of which this rank's is in place.
    pub fn all_gather_in_place(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let kind = OpKind::AllGather;
        let part = self.part_of(kind, buffer.len(), 1)?;
        // SAFETY: the span is used within this call only, while `buffer` is borrowed.
        let all = unsafe { Span::from_slice_mut(buffer) };
        self.run(kind, part, None, |schedule| schedule.all_gather(all))
    }

    /// Replaces `data` by the root's. The root returns when every rank has come.
    pub fn broadcast(&mut self, data: &mut [u8], root: u32) -> Result<(), Error> {
        let (kind, own, world) = (OpKind::Broadcast, self.rank(), self.world());
        if root >= world {
            return Err(Error::NoSuchRank { op: kind, rank: root, own, world });
        }
        // SAFETY: the span is used within this call only, while `data` is borrowed.
        let span = unsafe { Span::from_slice_mut(data) };
        let signature =
            Signature { kind, bytes: span.len() as u64, reduction: None, root: Some(root) };
        self.run_signed(signature, |schedule| schedule.broadcast(span, root as usize))
    }

    /// Returns when every rank has come.
    pub fn barrier(&mut self) -> Result<(), Error> {
        self.run(OpKind::Barrier, 0, None, |schedule| schedule.barrier())
    }

    /// Sends `data` to one peer, whose matching call is `recv` with the same length. Returns when
    /// the bytes are on their way, which for more than a link holds is when the peer takes them: of
    /// two ranks with much for each other, one receives first.
    pub fn send(&mut self, to: u32, data: &[u8]) -> Result<(), Error> {
        let peer = self.peer(to)?;
        // SAFETY: the span is used within this call only, for reading.
        let span = unsafe { Span::from_slice(data) };
        let sequence = self.sent[peer];
        self.sent[peer] += 1;
        self.transfer(sequence, data.len(), |schedule| schedule.send(peer, span))
    }

    /// Receives what the peer's matching `send` sends.
    pub fn recv(&mut self, from: u32, data: &mut [u8]) -> Result<(), Error> {
        let peer = self.peer(from)?;
        let bytes = data.len();
        // SAFETY: the span is used within this call only, while `data` is borrowed.
        let span = unsafe { Span::from_slice_mut(data) };
        let sequence = self.received[peer];
        self.received[peer] += 1;
        self.transfer(sequence, bytes, |schedule| schedule.recv(peer, span))
    }

    fn transfer(
        &mut self,
        sequence: u64,
        bytes: usize,
        act: impl FnOnce(&mut Schedule<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let kind = OpKind::Transfer;
        let signature = Signature { kind, bytes: bytes as u64, reduction: None, root: None };
        self.act(Header { sequence, signature }, act)
    }

    fn run(
        &mut self,
        kind: OpKind,
        bytes: usize,
        reduction: Option<(DataType, ReduceOp)>,
        act: impl FnOnce(&mut Schedule<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.run_signed(Signature { kind, bytes: bytes as u64, reduction, root: None }, act)
    }

    fn run_signed(
        &mut self,
        signature: Signature,
        act: impl FnOnce(&mut Schedule<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let sequence = self.sequence;
        self.sequence += 1;
        self.act(Header { sequence, signature }, act)
    }

    /// The frame around every operation: a failure ends the mesh, and no span survives the call.
    fn act(
        &mut self,
        header: Header,
        act: impl FnOnce(&mut Schedule<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Self { fabric, scratch, traffic, whereabouts, life, observer, .. } = self;
        let (signature, started) = (header.signature, Instant::now());
        let before = fabric.sent();
        whereabouts.enter(header.sequence, &signature);
        let result = fabric
            .begin(header.signature.kind, header.sequence)
            .and_then(|()| act(&mut Schedule { fabric, header, scratch }))
            .and_then(|()| fabric.finish());
        let sent = fabric.sent() - before;
        whereabouts.leave();
        crate::waited::add(started.elapsed());
        if let (Ok(()), Some(observer)) = (&result, observer) {
            observer.completed(&signature, Cost { elapsed: started.elapsed(), sent });
        }
        let Signature { kind, reduction, .. } = signature;
        traffic.add(kind, reduction.map(|(data_type, _)| data_type), sent);
        if let Err(error) = &result {
            fabric.forget_spans();
            match error {
                Error::PeerLost { rank, .. } => life.shared.lose(*rank),
                _ => life.shared.abort(&error.to_string()),
            }
        }
        result
    }

    fn peer(&self, rank: u32) -> Result<usize, Error> {
        let (own, world) = (self.rank(), self.world());
        if rank >= world || rank == own {
            return Err(Error::NoSuchRank { op: OpKind::Transfer, rank, own, world });
        }
        Ok(rank as usize)
    }

    fn check_parts(
        &self,
        op: OpKind,
        what: &'static str,
        whole: usize,
        part: usize,
    ) -> Result<(), Error> {
        let wanted = part * self.world() as usize;
        if whole == wanted {
            return Ok(());
        }
        let expected = format!("{wanted} ({} parts of {part})", self.world());
        Err(Error::BadLength { op, what, actual: whole, expected })
    }

    /// The size of each of `world` equal parts of whole elements.
    fn part_of(&self, op: OpKind, whole: usize, element: usize) -> Result<usize, Error> {
        let unit = element * self.world() as usize;
        if whole.is_multiple_of(unit) {
            return Ok(whole / self.world() as usize);
        }
        let expected = format!("a multiple of {unit} ({} parts of whole elements)", self.world());
        Err(Error::BadLength { op, what: "buffer", actual: whole, expected })
    }
}

fn check_elements(
    op: OpKind,
    what: &'static str,
    len: usize,
    data_type: DataType,
) -> Result<(), Error> {
    if len.is_multiple_of(data_type.size()) {
        return Ok(());
    }
    let expected = format!("a multiple of {} ({data_type})", data_type.size());
    Err(Error::BadLength { op, what, actual: len, expected })
}
