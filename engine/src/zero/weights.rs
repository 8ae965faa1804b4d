//! The model's parameters as this rank holds them: flat buffers in the model's precision, which
//! the model's leaves are views of, and beside them, where that precision has 16 bits, fp32
//! masters of the part that this rank updates.
//!
//! Promise: updates accumulate in fp32 whatever the model computes in; what the model sees is the
//! master, rounded once. A sharded bucket is nothing but its master until it is admitted, and
//! again once it is dismissed. Refusal: neither gradients nor optimizer states.

use std::ops::Range;

use common::spec::PrecisionKind;
use tch::{TchError, Tensor};

use crate::device::Device;
use crate::error::Error;
use crate::model::Model;
use crate::native;
use crate::numbers::{Numbers, NumbersMut, NumbersRef};
use crate::storage::{Part, PartMut, Storage};
use crate::zero::failure::Failure;
use crate::zero::flat::Flat;
use crate::zero::layout::Layout;
use crate::zero::link::Link;

/// All buckets of one rank.
#[derive(Debug)]
pub(crate) struct Weights {
    buckets: Vec<Bucket>,
    /// Bytes of sharded buckets that were here at one time, at most.
    most_gathered: usize,
}

#[derive(Debug)]
struct Bucket {
    flat: Flat,
    /// The elements that this rank updates: all at stage 0, else its shard.
    held: Range<usize>,
    /// Of those, in fp32; None where the flat buffer itself is that and always here.
    master: Option<Storage>,
    /// The flat buffer has memory only while a unit uses it.
    is_sharded: bool,
}

/// A copy of all parameters that this rank has, in the host's memory, to come back to: what the model
/// sees, where that is always here, and the masters.
#[derive(Debug)]
pub(crate) struct Snapshot(Vec<(Option<Numbers>, Option<Numbers>)>);

/// What this rank updates of a bucket, in fp32.
#[derive(Debug)]
pub(crate) enum Updated<'a> {
    Host(&'a mut [f32]),
    /// Flat; another handle of what is updated.
    Device(Tensor),
}

impl Weights {
    /// Moves the model's parameters into flat buffers of `kind`, with rank 0's values, so that
    /// every rank starts from the same bits even where the files of initial weights differ. `held`
    /// tells what this rank updates of a bucket. Collective.
    pub(crate) fn flatten(
        model: &mut Model,
        layout: &Layout,
        (kind, device): (PrecisionKind, Device),
        held: impl Fn(usize) -> Range<usize>,
        link: &mut Link,
    ) -> Result<Self, Error> {
        let mut buckets = Vec::with_capacity(layout.buckets.len());
        for (index, bucket) in layout.buckets.iter().enumerate() {
            let allocate = |kind, on| {
                Flat::zeros(kind, bucket.len, on).map_err(Error::torch("allocate a flat buffer"))
            };
            let mut initial = allocate(PrecisionKind::Fp32, Device::CPU)?;
            for piece in &bucket.pieces {
                let leaf = &model.parameters()[piece.parameter].tensor;
                copy_leaf(leaf, &initial, piece.offset)
                    .map_err(Error::torch("copy a parameter into its flat buffer"))?;
            }
            let PartMut::Host(values) = initial.as_mut() else {
                unreachable!("it was allocated on the CPU")
            };
            link.broadcast(values.bytes())
                .map_err(Error::communication("broadcast initial weights", 0))?;
            let held = held(index);
            let is_sharded = bucket.is_sharded;
            let copied = Error::torch("copy a bucket's initial weights");
            let has_master = kind != PrecisionKind::Fp32 || is_sharded;
            let master = has_master.then(|| master(&initial, held.clone(), device));
            let master = master.transpose().map_err(copied)?;
            let mut flat = initial;
            if kind != PrecisionKind::Fp32 || device != Device::CPU {
                let initial = std::mem::replace(&mut flat, allocate(kind, device)?);
                let copied = Error::torch("copy a bucket's initial weights");
                flat.as_mut().copy_from(initial.as_ref()).map_err(copied)?;
            }
            for piece in &bucket.pieces {
                let leaf = &mut model.parameters_mut()[piece.parameter].tensor;
                repoint(leaf, &flat, piece.offset)
                    .map_err(Error::torch("move a parameter into its flat buffer"))?;
            }
            if is_sharded {
                flat.free()?;
            }
            buckets.push(Bucket { flat, held, master, is_sharded });
        }
        Ok(Self { buckets, most_gathered: 0 })
    }

    /// Gives a sharded bucket its memory, with this rank's part in it; the others' are to come.
    pub(crate) fn admit(&mut self, bucket: usize) -> Result<PartMut<'_>, Failure> {
        let Bucket { flat, is_sharded, .. } = &mut self.buckets[bucket];
        assert!(*is_sharded && flat.bytes_held() == 0, "what is here does not come");
        flat.restore()?;
        let gathered = self.buckets.iter().filter(|b| b.is_sharded).map(|b| b.flat.bytes_held());
        self.most_gathered = self.most_gathered.max(gathered.sum());
        let Bucket { flat, held, master, .. } = &mut self.buckets[bucket];
        let master = master.as_ref().expect("a sharded bucket has a master");
        flat.as_mut().range(held.clone()).copy_from(master.as_ref())?;
        Ok(flat.as_mut())
    }

    /// Takes a sharded bucket's memory back.
    pub(crate) fn dismiss(&mut self, bucket: usize) -> Result<(), native::Error> {
        let Bucket { flat, is_sharded, .. } = &mut self.buckets[bucket];
        assert!(*is_sharded && flat.bytes_held() > 0, "what is not here does not go");
        flat.free()
    }

    /// What was written to buckets that are always here becomes what the model sees.
    pub(crate) fn publish(&mut self) -> Result<(), Error> {
        let mut whole = self.buckets.iter_mut().filter(|bucket| !bucket.is_sharded);
        let published = whole.try_for_each(|bucket| bucket.flat.publish());
        published.map_err(Error::torch("publish parameters"))
    }

    /// As [`Weights::publish`], of one bucket that is here.
    pub(crate) fn publish_bucket(&mut self, bucket: usize) -> Result<(), Error> {
        self.buckets[bucket].flat.publish().map_err(Error::torch("publish a unit's parameters"))
    }

    /// Bytes of what the model sees, and of masters beside it, that this rank has at present. The
    /// master of a sharded fp32 bucket counts as the parameters themselves.
    pub(crate) fn bytes_held(&self) -> (usize, usize) {
        let (mut seen, mut masters) = (0, 0);
        for bucket in &self.buckets {
            seen += bucket.flat.bytes_held();
            let master = bucket.master.as_ref().map_or(0, Storage::bytes);
            let is_parameter = bucket.is_sharded && bucket.flat.kind() == PrecisionKind::Fp32;
            *(if is_parameter { &mut seen } else { &mut masters }) += master;
            masters += bucket.flat.bytes_mirrored();
        }
        (seen, masters)
    }

    /// Bytes of sharded buckets that were here at one time, at most.
    pub(crate) fn most_gathered(&self) -> usize {
        self.most_gathered
    }

    /// Changes what this rank updates of a bucket; the model sees it afterwards.
    pub(crate) fn update(
        &mut self,
        bucket: usize,
        change: impl FnOnce(Updated<'_>) -> Result<(), TchError>,
    ) -> Result<(), TchError> {
        let held = self.buckets[bucket].held.clone();
        match self.buckets[bucket].parts() {
            (Some(seen), None) => change(updated(seen.range(held))),
            (seen, Some(master)) => {
                change(updated(master.as_mut()))?;
                let seen = seen.map(|seen| seen.range(held).copy_from(master.as_ref()));
                seen.unwrap_or(Ok(()))
            }
            (None, None) => unreachable!("shards have masters"),
        }
    }

    /// All of a bucket, as the model sees it.
    pub(crate) fn whole_mut(&mut self, bucket: usize) -> PartMut<'_> {
        self.buckets[bucket].flat.as_mut()
    }

    /// Shows elements of a bucket that this rank updates, in fp32.
    pub(crate) fn read<T>(
        &self,
        bucket: usize,
        range: Range<usize>,
        take: impl FnOnce(&[f32]) -> T,
    ) -> Result<T, TchError> {
        let Bucket { flat, held, master, is_sharded } = &self.buckets[bucket];
        let seen = (!is_sharded).then(|| flat.as_ref());
        read(seen, master.as_ref().map(Storage::as_ref), held, range).show(take)
    }

    /// Sets elements of a bucket from `start` on, whoever updates them.
    pub(crate) fn write(
        &mut self,
        bucket: usize,
        start: usize,
        values: &[f32],
    ) -> Result<(), TchError> {
        let held = self.buckets[bucket].held.clone();
        let (seen, master) = self.buckets[bucket].parts();
        write(seen, master.map(Storage::as_mut), &held, (start, values))
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot, TchError> {
        let copy = |bucket: &Bucket| {
            let seen = (!bucket.is_sharded).then(|| bucket.flat.as_ref().to_numbers());
            let master = bucket.master.as_ref().map(|master| master.as_ref().to_numbers());
            Ok((seen.transpose()?, master.transpose()?))
        };
        self.buckets.iter().map(copy).collect::<Result<_, _>>().map(Snapshot)
    }

    /// Exchanges the parameters with a snapshot's.
    pub(crate) fn swap(&mut self, snapshot: &mut Snapshot) -> Result<(), TchError> {
        for (bucket, (values, saved)) in self.buckets.iter_mut().zip(&mut snapshot.0) {
            if let Some(values) = values {
                bucket.flat.as_mut().exchange(values)?;
            }
            if let Some((master, saved)) = bucket.master.as_mut().zip(saved.as_mut()) {
                master.as_mut().exchange(saved)?;
            }
        }
        Ok(())
    }

    /// As [`Weights::read`], of a snapshot.
    pub(crate) fn read_from<T>(
        &self,
        snapshot: &Snapshot,
        (bucket, range): (usize, Range<usize>),
        take: impl FnOnce(&[f32]) -> T,
    ) -> Result<T, TchError> {
        let (values, master) = &snapshot.0[bucket];
        let seen = values.as_ref().map(|values| Part::Host(values.as_ref()));
        let master = master.as_ref().map(|master| Part::Host(master.as_ref()));
        read(seen, master, &self.buckets[bucket].held, range).show(take)
    }

    /// As [`Weights::write`], to a snapshot.
    pub(crate) fn write_to(
        &self,
        snapshot: &mut Snapshot,
        bucket: usize,
        start: usize,
        new: &[f32],
    ) -> Result<(), TchError> {
        let (values, master) = &mut snapshot.0[bucket];
        let seen = values.as_mut().map(|values| PartMut::Host(values.as_mut()));
        let master = master.as_mut().map(|master| PartMut::Host(master.as_mut()));
        write(seen, master, &self.buckets[bucket].held, (start, new))
    }
}

impl Bucket {
    /// What the model sees, where that is always here, and the master.
    fn parts(&mut self) -> (Option<PartMut<'_>>, Option<&mut Storage>) {
        let seen = (!self.is_sharded).then(|| self.flat.as_mut());
        (seen, self.master.as_mut())
    }
}

/// The master of the elements in `held`, where what is updated lives.
fn master(initial: &Flat, held: Range<usize>, device: Device) -> Result<Storage, TchError> {
    let mut master = Storage::zeros(PrecisionKind::Fp32, held.len(), device)?;
    master.as_mut().copy_from(initial.as_ref().range(held))?;
    Ok(master)
}

fn updated(part: PartMut<'_>) -> Updated<'_> {
    match part {
        PartMut::Host(NumbersMut::Fp32(values)) => Updated::Host(values),
        PartMut::Host(_) => unreachable!("16 bits have masters"),
        PartMut::Device(tensor) => Updated::Device(tensor),
    }
}

fn read<'a>(
    seen: Option<Part<'a>>,
    master: Option<Part<'a>>,
    held: &Range<usize>,
    range: Range<usize>,
) -> Part<'a> {
    match (master, seen) {
        (None, Some(seen)) => seen.range(range),
        (Some(master), _) => master.range(range.start - held.start..range.end - held.start),
        (None, None) => unreachable!("shards have masters"),
    }
}

fn write(
    seen: Option<PartMut<'_>>,
    master: Option<PartMut<'_>>,
    held: &Range<usize>,
    (start, values): (usize, &[f32]),
) -> Result<(), TchError> {
    let end = start + values.len();
    if let Some(seen) = seen {
        seen.range(start..end).copy_from(Part::Host(NumbersRef::Fp32(values)))?;
    }
    let Some(master) = master else { return Ok(()) };
    let (first, last) = (start.max(held.start), end.min(held.end));
    if first >= last {
        return Ok(());
    }
    let values = NumbersRef::Fp32(&values[first - start..last - start]);
    master.range(first - held.start..last - held.start).copy_from(Part::Host(values))
}

fn copy_leaf(leaf: &Tensor, flat: &Flat, offset: usize) -> Result<(), tch::TchError> {
    flat.view(offset, &leaf.size())?.f_copy_(&leaf.f_detach()?)
}

fn repoint(leaf: &mut Tensor, flat: &Flat, offset: usize) -> Result<(), tch::TchError> {
    let view = flat.view(offset, &leaf.size())?;
    leaf.f_set_data(&view)
}
