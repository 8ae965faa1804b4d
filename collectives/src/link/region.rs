//! The memory that two ranks share: one sealed memfd per pair, two rings per channel.
//!
//! Bounded: a pair's region is `channels * 2 * ring` bytes, where `ring` shrinks as the world grows
//! (see [`RegionLayout::new`]), and pages that no message ever reached are not allocated. Leaves no
//! file behind: the memfd has no name and lives as long as its two mappings.

#![expect(unsafe_code, reason = "memory shared with another process")]

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::Arc,
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};

use super::{
    ring::{Control, Duplex, Reader, Writer},
    sys::Mapping,
};

/// Pages are what mmap counts in; 64 KiB covers every page size Linux uses on the machines we know.
const PAGE: usize = 64 << 10;

/// The largest ring. Two of them fit the second-level cache of current server cores beside the data.
const RING_MAX: usize = 512 << 10;

/// The smallest ring; its eighth is still worth a wake-up.
const RING_MIN: usize = 128 << 10;

/// All rings that one rank writes on one channel share about this much.
const RINGS_PER_RANK: usize = 2 << 20;

/// The sizes inside a region; the same on both ends, because both compute it from the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RegionLayout {
    pub(crate) ring: usize,
    pub(crate) channels: usize,
}

impl RegionLayout {
    pub(crate) fn new(world: u32, channels: u32) -> Self {
        let share = RINGS_PER_RANK / (world.max(2) as usize - 1);
        let ring = share.clamp(RING_MIN, RING_MAX);
        // A power of two, so that positions may wrap with the counters.
        let ring = if ring.is_power_of_two() { ring } else { ring.next_power_of_two() / 2 };
        Self { ring, channels: channels as usize }
    }

    fn control_bytes(self) -> usize {
        (self.channels * 2 * size_of::<Control>()).next_multiple_of(PAGE)
    }

    fn bytes(self) -> usize {
        self.control_bytes() + self.channels * 2 * self.ring
    }

    fn ring_offset(self, ring: usize) -> usize {
        self.control_bytes() + ring * self.ring
    }
}

/// A mapped region.
#[derive(Debug)]
pub(crate) struct Region {
    control: Mapping,
    rings: Vec<Mapping>,
    layout: RegionLayout,
}

/// Which of the two ends of a pair this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Dialer,
    Acceptor,
}

impl Region {
    /// Makes the memory of a pair; the descriptor goes to the other end.
    pub(crate) fn create(layout: RegionLayout) -> io::Result<(Arc<Self>, OwnedFd)> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"rustspeed-collectives", flags)?);
        file.set_len(layout.bytes() as u64)?;
        // The size is sealed: a peer that truncated the file could otherwise raise SIGBUS here.
        fcntl(&file, FcntlArg::F_ADD_SEALS(required_seals() | SealFlag::F_SEAL_SEAL))?;
        let region = Self::map(file.as_fd(), layout)?;
        Ok((Arc::new(region), file.into()))
    }

    /// Maps the memory that the other end made, once its size and seals are as promised.
    pub(crate) fn open(file: OwnedFd, layout: RegionLayout) -> io::Result<Arc<Self>> {
        let file = File::from(file);
        let seals = SealFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(required_seals()) || file.metadata()?.len() != layout.bytes() as u64 {
            let told = "the peer's shared memory has another size or is not sealed";
            return Err(io::Error::new(io::ErrorKind::InvalidData, told));
        }
        Ok(Arc::new(Self::map(file.as_fd(), layout)?))
    }

    /// This end's rings of one channel.
    pub(crate) fn duplex(self: &Arc<Self>, channel: usize, end: End) -> Duplex {
        let (write, read) = match end {
            End::Dialer => (2 * channel, 2 * channel + 1),
            End::Acceptor => (2 * channel + 1, 2 * channel),
        };
        Duplex {
            writer: Writer::new(Arc::clone(self), write),
            reader: Reader::new(Arc::clone(self), read),
        }
    }

    pub(super) fn ring_bytes(&self) -> usize {
        self.layout.ring
    }

    pub(super) fn control(&self, ring: usize) -> &Control {
        assert!(ring < 2 * self.layout.channels, "a ring of this region");
        // SAFETY: the control area holds a `Control` for each ring, aligned because the mapping is;
        // it consists of atomics, for which any bytes are a value.
        unsafe { self.control.start().cast::<Control>().add(ring).as_ref() }
    }

    pub(super) fn ring_start(&self, ring: usize) -> NonNull<u8> {
        self.rings[ring].start()
    }

    fn map(file: BorrowedFd<'_>, layout: RegionLayout) -> io::Result<Self> {
        let control = Mapping::new(file, 0, layout.control_bytes(), 1)?;
        let rings = (0..2 * layout.channels)
            .map(|ring| Mapping::new(file, layout.ring_offset(ring), layout.ring, 2))
            .collect::<io::Result<_>>()?;
        Ok(Self { control, rings, layout })
    }
}

fn required_seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}
