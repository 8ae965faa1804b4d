//! Which bytes go where in which order: a direct exchange between all pairs, in pieces, so that
//! copying, summing and collecting overlap.
//!
//! Every rank follows the same steps, and each link carries the same sequence of bytes on both ends,
//! so pieces need no labels. Over a ring contributions and results alternate, so that results come
//! back while their place is still in the cache; over a stream all contributions come first. No cycle of waits is possible: in a step a rank sends before it
//! receives, and between the rank that is behind and any other at most four pieces and a header are
//! unread on a link, which a ring holds (a piece is an eighth of a ring; streams queue without bound
//! on the caller's own buffers). So the rank that is most behind never waits for room, and what it
//! waits for comes from a rank in the same step that has not sent yet, or is under way.

#![expect(unsafe_code, reason = "parts of one buffer are read and written in the same operation")]

use crate::{
    Error,
    header::{self, Header},
    link::{Fabric, RegionLayout, Span},
    reduce::{Scratch, reduce},
};

/// Pieces of a ring that may be under way.
const PIECES_PER_RING: usize = 8;

/// Up to this size, or a piece if that is less, a reduction is one exchange of whole buffers: half
/// the waits for twice the bytes.
const WHOLE_MAX: usize = 32 << 10;

/// The unit of pipelining; all ranks compute it from the world's size.
pub(crate) fn piece(world: u32) -> usize {
    RegionLayout::new(world, 1).ring / PIECES_PER_RING
}

/// One operation on its way.
#[derive(Debug)]
pub(crate) struct Schedule<'a> {
    pub(crate) fabric: &'a mut Fabric,
    pub(crate) header: Header,
    pub(crate) scratch: &'a mut Scratch,
}

impl Schedule<'_> {
    pub(crate) fn all_reduce(&mut self, data: Span) -> Result<(), Error> {
        if self.world() == 1 || data.len() == 0 {
            return self.barrier();
        }
        self.greet_all()?;
        if data.len() <= WHOLE_MAX.min(self.piece()) {
            return self.all_reduce_whole(data);
        }
        let pieces = Pieces { segments: self.segments(data), piece: self.piece() };
        let (own, steps) = (self.own(), pieces.count());
        for step in 0..steps + 2 {
            self.fabric.check_abort()?;
            self.send_step(&pieces, step)?;
            if step == 0 {
                self.check_greetings()?;
            }
            if (1..=steps).contains(&step) {
                let mine = pieces.at(own, step - 1);
                self.reduce_arrived(mine, mine)?;
                self.send_each(|_| mine)?;
            }
            if step >= 2 {
                self.receive_step(&pieces, step - 2)?;
            }
        }
        self.receive_rest(&pieces)
    }

    /// `input` is a part for each rank; `output` may be this rank's part of it.
    pub(crate) fn reduce_scatter(&mut self, input: Span, output: Span) -> Result<(), Error> {
        let own = self.own();
        let pieces = Pieces { segments: self.parts(input), piece: self.piece() };
        let result = Pieces { segments: vec![output], piece: self.piece() };
        self.greet_all()?;
        for step in 0..=pieces.count() {
            self.fabric.check_abort()?;
            self.send_step(&pieces, step)?;
            if step == 0 {
                self.check_greetings()?;
            } else {
                self.reduce_arrived(pieces.at(own, step - 1), result.at(0, step - 1))?;
            }
        }
        Ok(())
    }

    /// `buffer` is a part of each rank, this rank's in place.
    pub(crate) fn all_gather(&mut self, buffer: Span) -> Result<(), Error> {
        let pieces = Pieces { segments: self.parts(buffer), piece: self.piece() };
        let own = pieces.segments[self.own()];
        let mine = Pieces { segments: vec![own; self.world()], piece: pieces.piece };
        self.greet_all()?;
        for step in 0..=pieces.count() {
            self.fabric.check_abort()?;
            self.send_step(&mine, step)?;
            if step == 0 {
                self.check_greetings()?;
            } else {
                self.receive_step(&pieces, step - 1)?;
            }
        }
        self.receive_rest(&pieces)
    }

    /// The others greet the root too, so that it does not run ahead of a rank that is elsewhere.
    pub(crate) fn broadcast(&mut self, data: Span, root: usize) -> Result<(), Error> {
        let pieces = Pieces { segments: vec![data], piece: self.piece() };
        if self.own() != root {
            self.greet(root)?;
            self.fabric.push_out(root)?;
            self.check_greeting(root)?;
            for step in 0..pieces.count() {
                self.fabric.check_abort()?;
                // SAFETY: `data` is the caller's for writing, and only this call touches it.
                unsafe { self.fabric.receive(root, pieces.at(0, step))? };
            }
            return Ok(());
        }
        self.greet_all()?;
        for step in 0..pieces.count() {
            self.fabric.check_abort()?;
            self.send_each(|_| pieces.at(0, step))?;
        }
        self.check_greetings()
    }

    pub(crate) fn barrier(&mut self) -> Result<(), Error> {
        self.greet_all()?;
        self.check_greetings()
    }

    pub(crate) fn send(&mut self, to: usize, data: Span) -> Result<(), Error> {
        let pieces = Pieces { segments: vec![data], piece: self.piece() };
        self.greet(to)?;
        self.fabric.push_out(to)?;
        for step in 0..pieces.count() {
            self.fabric.check_abort()?;
            // SAFETY: `data` is the caller's, unchanged until `finish` at the end of the operation.
            unsafe { self.fabric.send(to, pieces.at(0, step))? };
        }
        Ok(())
    }

    pub(crate) fn recv(&mut self, from: usize, data: Span) -> Result<(), Error> {
        let pieces = Pieces { segments: vec![data], piece: self.piece() };
        self.check_greeting(from)?;
        for step in 0..pieces.count() {
            self.fabric.check_abort()?;
            // SAFETY: `data` is the caller's for writing, and only this call touches it.
            unsafe { self.fabric.receive(from, pieces.at(0, step))? };
        }
        Ok(())
    }

    /// One exchange of whole buffers, summed by everybody.
    fn all_reduce_whole(&mut self, data: Span) -> Result<(), Error> {
        self.send_each(|_| data)?;
        self.check_greetings()?;
        for rank in self.peers() {
            self.fabric.wait(rank, data.len())?;
        }
        // The sums overwrite what streams may still be sending.
        self.fabric.finish()?;
        self.reduce_arrived(data, data)
    }

    /// Sums the peers' next pieces and this rank's `own` one, in rank order, into `out`.
    fn reduce_arrived(&mut self, own: Span, out: Span) -> Result<(), Error> {
        if out.len() == 0 {
            return Ok(());
        }
        for rank in self.peers() {
            self.fabric.wait(rank, out.len())?;
        }
        self.scratch.clear();
        for rank in 0..self.world() {
            let source = match rank == self.own() {
                true => own,
                // SAFETY: only read, and before the view is released below.
                false => unsafe { Span::from_slice(self.fabric.view(rank, out.len())) },
            };
            self.scratch.push(source);
        }
        let (data_type, op) = self.header.signature.reduction.expect("reductions have one");
        // SAFETY: views lie in links' memory; `own` and `out` are the caller's buffers, the same
        // part or two apart; all have one length, cut at whole elements.
        unsafe { reduce(data_type, op, self.scratch, out) };
        for rank in self.peers() {
            self.fabric.release(rank, out.len());
        }
        Ok(())
    }

    /// Sends every peer the step's piece of its segment. Streams queue a whole segment at once: their
    /// queue is the caller's buffer, and the kernel likes large writes.
    fn send_step(&mut self, pieces: &Pieces, step: usize) -> Result<(), Error> {
        for rank in self.peers() {
            let span = match self.fabric.is_stream(rank) {
                false => pieces.at(rank, step),
                true if step == 0 => pieces.segments[rank],
                true => continue,
            };
            self.send_part(rank, span)?;
        }
        Ok(())
    }

    /// Receives the step's piece of every peer's segment that comes over a ring.
    fn receive_step(&mut self, pieces: &Pieces, step: usize) -> Result<(), Error> {
        for rank in self.peers() {
            if self.fabric.is_stream(rank) {
                continue;
            }
            // SAFETY: the caller's buffer is ours for writing; nobody else reads or writes it.
            unsafe { self.fabric.receive(rank, pieces.at(rank, step))? };
        }
        Ok(())
    }

    /// Receives the segments that come over streams, whole: on a stream results follow all
    /// contributions.
    fn receive_rest(&mut self, pieces: &Pieces) -> Result<(), Error> {
        for rank in self.peers() {
            if !self.fabric.is_stream(rank) {
                continue;
            }
            // SAFETY: as above.
            unsafe { self.fabric.receive(rank, pieces.segments[rank])? };
        }
        Ok(())
    }

    fn send_each(&mut self, part: impl Fn(usize) -> Span) -> Result<(), Error> {
        for rank in self.peers() {
            self.send_part(rank, part(rank))?;
        }
        Ok(())
    }

    fn send_part(&mut self, rank: usize, part: Span) -> Result<(), Error> {
        if part.len() == 0 {
            return Ok(());
        }
        // SAFETY: the caller's buffer outlives the operation, at whose end `finish` waits. A part that
        // is overwritten later is so by what its receiver made of it.
        unsafe { self.fabric.send(rank, part) }
    }

    fn greet_all(&mut self) -> Result<(), Error> {
        for rank in self.peers() {
            self.greet(rank)?;
        }
        Ok(())
    }

    fn greet(&mut self, rank: usize) -> Result<(), Error> {
        self.fabric.stage(rank, self.header.encode())
    }

    /// Greetings travel with the first piece, or alone where there was none.
    fn check_greetings(&mut self) -> Result<(), Error> {
        for rank in self.peers() {
            self.fabric.push_out(rank)?;
        }
        for rank in self.peers() {
            self.check_greeting(rank)?;
        }
        Ok(())
    }

    /// A7: the peer does what we do, and for the same time.
    fn check_greeting(&mut self, rank: usize) -> Result<(), Error> {
        self.fabric.wait(rank, header::BYTES)?;
        let encoded = self.fabric.view(rank, header::BYTES);
        let encoded = encoded.try_into().expect("a view has the length asked for");
        let Some(theirs) = Header::decode(encoded) else {
            let (op, sequence) = (self.header.signature.kind, self.header.sequence);
            return Err(Error::Corrupt { rank: rank as u32, op, sequence });
        };
        if theirs != self.header {
            return Err(Error::Mismatch {
                rank: rank as u32,
                sequence: self.header.sequence,
                their_sequence: theirs.sequence,
                ours: self.header.signature,
                theirs: theirs.signature,
            });
        }
        self.fabric.release(rank, header::BYTES);
        Ok(())
    }

    fn own(&self) -> usize {
        self.fabric.shared.rank as usize
    }

    fn world(&self) -> usize {
        self.fabric.shared.world as usize
    }

    fn piece(&self) -> usize {
        piece(self.fabric.shared.world)
    }

    /// The other ranks, beginning after this one, so that not all send to the same rank first.
    fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let (own, world) = (self.own(), self.world());
        (own + 1..world).chain(0..own)
    }

    /// Whole elements cut into one segment per rank, which differ by one element at most.
    fn segments(&self, data: Span) -> Vec<Span> {
        let (data_type, _) = self.header.signature.reduction.expect("reductions have one");
        let (size, world) = (data_type.size(), self.world());
        let elements = data.len() / size;
        let start = |rank: usize| rank * (elements / world) + rank.min(elements % world);
        (0..world).map(|rank| data.range(start(rank) * size, start(rank + 1) * size)).collect()
    }

    /// One equal part per rank.
    fn parts(&self, data: Span) -> Vec<Span> {
        let part = data.len() / self.world();
        (0..self.world()).map(|rank| data.range(rank * part, (rank + 1) * part)).collect()
    }
}

/// Segments cut into pieces of whole elements; a shorter segment's last pieces are empty.
#[derive(Debug)]
struct Pieces {
    segments: Vec<Span>,
    piece: usize,
}

impl Pieces {
    fn count(&self) -> usize {
        self.segments.iter().map(|segment| segment.len().div_ceil(self.piece)).max().unwrap_or(0)
    }

    fn at(&self, segment: usize, step: usize) -> Span {
        let segment = self.segments[segment];
        let from = segment.len().min(step * self.piece);
        segment.range(from, segment.len().min(from + self.piece))
    }
}
