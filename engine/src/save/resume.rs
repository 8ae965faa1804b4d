//! Where a run continues, and the state from there on every rank, whatever world and stage saved
//! it.
//!
//! Promise: rank 0 decides, after it has read every byte; all ranks load the same checkpoint.
//! Refusal: a checkpoint of another model is an error that names the first tensor that differs.

use std::collections::BTreeSet;
use std::path::PathBuf;

use checkpoint::import::ImportedState;
use checkpoint::{DataType, Reader, Selected, TensorKind};
use collectives::Communicator;
use common::spec::Resume;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::save::copy::tensor_kind;
use crate::save::{Root, wire};
use crate::train::State;
use crate::zero::{Snapshot, StateKind, Zero};

/// Where a run starts.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub(crate) state: State,
    /// The weights of the best validation, where there was one and they are known.
    pub(crate) best_weights: Option<Snapshot>,
    /// The checkpoint lies under the root: its step need not be saved again.
    pub(crate) is_from_root: bool,
    /// Tags of this job's own checkpoints that are out of the way now.
    pub(crate) gone: Vec<String>,
    pub(crate) notes: Vec<String>,
}

/// Rank 0's choice.
#[derive(Debug, Serialize, Deserialize)]
struct Choice {
    /// None: start anew.
    folder: Option<PathBuf>,
    state: State,
    /// Of the manifest's shards: another folder under the same path is not taken for this one.
    hashes: Vec<String>,
    has_best: bool,
    is_from_root: bool,
    gone: Vec<String>,
    notes: Vec<String>,
}

/// Collective. Fills `zero` with the chosen checkpoint.
pub(crate) fn resume(
    root: &Root,
    resume: &Resume,
    zero: &mut Zero,
    communicator: &mut Communicator,
) -> Result<Resumed, Error> {
    let choice = if root.rank == 0 { Some(choose(root, resume, zero)?) } else { None };
    let choice: Choice = wire::broadcast(communicator, choice.as_ref())?;
    let Choice { folder, state, hashes, has_best, is_from_root, gone, mut notes } = choice;
    let mut best_weights = None;
    if let Some(folder) = folder {
        let reader = Reader::open(&folder).ok().filter(|reader| shard_hashes(reader) == hashes);
        let readable = wire::gather(communicator, &reader.is_some())?;
        if readable.first() != Some(&true) {
            // Without rank 0's reader nobody has the weights; every rank sees the same answer.
            return Err(Error::CheckpointChanged { path: folder });
        }
        let everybody_reads = readable.into_iter().all(|reads| reads);
        let mut source = match reader {
            Some(reader) if everybody_reads => Source::Folder(reader),
            reader => Source::RankZero(reader.filter(|_| root.rank == 0), communicator),
        };
        load(zero, &mut source)?;
        best_weights = match state.best {
            Some(best) if best.step == state.step => Some(zero.snapshot()?),
            Some(_) if has_best => Some(load_best(zero, &mut source)?),
            _ => None,
        };
        let from = folder.display();
        notes.push(format!("resumed at step {} from `{from}`", state.step));
    }
    root.tell_what_is_there()?;
    Ok(Resumed { state, best_weights, is_from_root, gone, notes })
}

fn choose(root: &Root, resume: &Resume, zero: &Zero) -> Result<Choice, Error> {
    let resume = root
        .root
        .continued(resume, &root.fence)
        .map_err(Error::checkpoint("find the checkpoint to resume"))?;
    let resolution =
        root.root.resolve(&resume).map_err(Error::checkpoint("find the checkpoint to resume"))?;
    let Selected { checkpoint, skipped } =
        resolution.select().map_err(Error::checkpoint("check the checkpoint to resume"))?;
    let passed_over = skipped.into_iter().map(|skipped| {
        format!("checkpoint `{}` was passed over: {}", skipped.path.display(), skipped.reason)
    });
    let mut notes: Vec<String> = passed_over.collect();
    // By identity, not by text: a link to a checkpoint of this root must not be set aside with the
    // newer ones just before it is read.
    let is_from_root = match &checkpoint {
        Some(found) => {
            root.root.holds(found).map_err(Error::checkpoint("look at the checkpoint root"))?
        }
        None => false,
    };
    let step = checkpoint.as_ref().filter(|_| is_from_root).map(|found| found.step);
    let choice = match checkpoint {
        None => Choice {
            folder: None,
            state: State::default(),
            hashes: Vec::new(),
            has_best: false,
            is_from_root,
            gone: Vec::new(),
            notes: Vec::new(),
        },
        Some(found) => {
            let reader =
                Reader::open(&found.path).map_err(Error::checkpoint("open the checkpoint"))?;
            check_tensors(&reader, zero)?;
            notes.extend(another_precision(&reader, root.facts.precision));
            Choice {
                state: state(&reader)?,
                hashes: shard_hashes(&reader),
                has_best: reader.tensor(TensorKind::Best, zero.name(0)).is_some(),
                folder: Some(found.path),
                is_from_root,
                gone: Vec::new(),
                notes: Vec::new(),
            }
        }
    };
    let newer = root.root.list().map_err(Error::checkpoint("look at the checkpoint root"))?.whole;
    let newer = newer.iter().filter(|found| step.is_none_or(|step| found.step > step));
    let gone = newer.map(|found| found.tag.clone()).collect();
    let aside = root
        .root
        .set_aside_newer(step, &root.fence)
        .map_err(Error::checkpoint("set newer checkpoints aside"))?;
    if !aside.is_empty() {
        let names = aside.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        notes.push(format!("checkpoints of another history were set aside: {}", names.join(", ")));
    }
    Ok(Choice { gone, notes, ..choice })
}

/// As this engine saved it, or as an import left it.
fn state(reader: &Reader) -> Result<State, Error> {
    let json = &reader.manifest().train_state;
    if let Ok(imported) = serde_json::from_value::<ImportedState>(json.clone()) {
        return Ok(imported.into());
    }
    let path = reader.folder().to_owned();
    serde_json::from_value(json.clone()).map_err(|source| Error::TrainState { path, source })
}

/// Parameters and optimizer states are saved in f32 whatever the model trains in, so nothing is
/// lost; that the losses will differ from here on should still be no surprise.
fn another_precision(reader: &Reader, now: &str) -> Option<String> {
    let saved = reader.manifest().precision.as_deref().filter(|saved| *saved != now)?;
    Some(format!(
        "the checkpoint was trained in {saved}, this job trains in {now}: its fp32 parameters and \
         optimizer states are taken as they are"
    ))
}

fn shard_hashes(reader: &Reader) -> Vec<String> {
    reader.manifest().shards.iter().map(|shard| shard.blake3.clone()).collect()
}

/// The checkpoint has this model's parameters and no others, each with this optimizer's states.
fn check_tensors(reader: &Reader, zero: &Zero) -> Result<(), Error> {
    check_optimizer(reader, zero)?;
    let differs = |tensor: String, found: String, expected: String| {
        let path = reader.folder().to_owned();
        Err(Error::OtherModel { path, tensor, found, expected })
    };
    for kind in zero.kinds() {
        for parameter in (0..zero.num_parameters()).filter(|&index| zero.has(kind, index)) {
            let kind = tensor_kind(kind);
            let name = zero.name(parameter);
            let shape: Vec<u64> = zero.shape(parameter).iter().map(|d| *d as u64).collect();
            let expected = format!("shape {shape:?}");
            match reader.tensor(kind, name) {
                Some(row) if row.dtype == DataType::F32 && row.shape == shape => {}
                Some(row) => {
                    let found = format!("{} of shape {:?}", row.dtype, row.shape);
                    return differs(format!("{kind} `{name}`"), found, expected);
                }
                None => return differs(format!("{kind} `{name}`"), "none".to_owned(), expected),
            }
        }
    }
    let buffers = zero.buffers();
    for index in 0..buffers.len() {
        let (name, shape, dtype) =
            (buffers.name(index), buffers.shape(index), buffers.dtype(index));
        let kind = TensorKind::Buffer;
        let expected = format!("{dtype} of shape {shape:?}");
        let found = match reader.tensor(kind, name) {
            Some(row) if row.dtype == dtype && row.shape == shape => continue,
            Some(row) => format!("{} of shape {:?}", row.dtype, row.shape),
            None => "none".to_owned(),
        };
        return differs(format!("{kind} `{name}`"), found, expected);
    }
    let is_known = |name: &str| {
        (0..zero.num_parameters()).any(|index| zero.name(index) == name)
            || (0..buffers.len()).any(|index| buffers.name(index) == name)
    };
    match reader.tensors().into_iter().find(|row| !is_known(&row.name)) {
        Some(row) => differs(format!("`{}`", row.name), "it".to_owned(), "none".to_owned()),
        None => Ok(()),
    }
}

/// Neither is a state of the checkpoint dropped nor one of the job's started from nothing.
fn check_optimizer(reader: &Reader, zero: &Zero) -> Result<(), Error> {
    let rows = reader.tensors();
    let is_state = |kind: &TensorKind| TensorKind::OPTIMIZER_STATES.contains(kind);
    let saved: BTreeSet<_> = rows.iter().map(|row| row.kind).filter(is_state).collect();
    let needed: BTreeSet<_> = zero.kinds().into_iter().map(tensor_kind).filter(is_state).collect();
    if saved == needed {
        return Ok(());
    }
    let list = |kinds: &BTreeSet<TensorKind>| match kinds.is_empty() {
        true => "none".to_owned(),
        false => kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", "),
    };
    let (found, expected) = (list(&saved), list(&needed));
    Err(Error::OtherOptimizer { path: reader.folder().to_owned(), found, expected })
}

/// Where this rank gets tensors from.
enum Source<'a> {
    /// Each rank reads what it holds.
    Folder(Reader),
    /// Some rank cannot: rank 0, which alone has the reader, reads and sends whole tensors.
    RankZero(Option<Reader>, &'a mut Communicator),
}

impl Source<'_> {
    /// All bytes of a tensor of `len` elements.
    fn fill_whole(
        &mut self,
        (kind, name): (TensorKind, &str),
        len: u64,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        if let Self::Folder(reader) | Self::RankZero(Some(reader), _) = self {
            reader
                .read_into(kind, name, 0..len, bytes)
                .map_err(Error::checkpoint("read the checkpoint"))?;
        }
        if let Self::RankZero(_, communicator) = self {
            communicator
                .broadcast(bytes, 0)
                .map_err(Error::communication("send the checkpoint to all ranks", 0))?;
        }
        Ok(())
    }

    /// Elements of one tensor, which has `len`, at each of `ranges`.
    fn fill(
        &mut self,
        (kind, name): (TensorKind, &str),
        len: usize,
        parts: &mut [(usize, &mut [f32])],
    ) -> Result<(), Error> {
        let read = |reader: &Reader, from: usize, values: &mut [f32]| {
            let range = from as u64..(from + values.len()) as u64;
            reader
                .read_into(kind, name, range, bytemuck::cast_slice_mut(values))
                .map_err(Error::checkpoint("read the checkpoint"))
        };
        match self {
            Self::Folder(reader) => {
                parts.iter_mut().try_for_each(|(from, values)| read(reader, *from, values))
            }
            Self::RankZero(reader, communicator) => {
                let mut whole = vec![0.0; len];
                if let Some(reader) = reader {
                    read(reader, 0, &mut whole)?;
                }
                communicator
                    .broadcast(bytemuck::cast_slice_mut(&mut whole), 0)
                    .map_err(Error::communication("send the checkpoint to all ranks", 0))?;
                for (from, values) in parts {
                    values.copy_from_slice(&whole[*from..*from + values.len()]);
                }
                Ok(())
            }
        }
    }
}

fn load(zero: &mut Zero, source: &mut Source<'_>) -> Result<(), Error> {
    let buffers = load_buffers(zero, TensorKind::Buffer, source)?;
    zero.buffers_mut().restore(&buffers)?;
    for kind in zero.kinds() {
        let held = zero.held(kind);
        for parameter in 0..zero.num_parameters() {
            if !zero.has(kind, parameter) {
                continue;
            }
            let len = zero.shape(parameter).iter().product::<i64>() as usize;
            let name = zero.name(parameter).to_owned();
            // Every rank asks for every tensor, also where it holds none of it: with
            // `Source::RankZero` each is a collective (A7).
            let mut values: Vec<(usize, Vec<f32>)> = held
                .iter()
                .filter(|slice| slice.parameter == parameter)
                .map(|slice| (slice.offset, vec![0.0; slice.len]))
                .collect();
            let mut parts: Vec<(usize, &mut [f32])> =
                values.iter_mut().map(|(from, values)| (*from, values.as_mut_slice())).collect();
            source.fill((tensor_kind(kind), &name), len, &mut parts)?;
            let slices = held.iter().filter(|slice| slice.parameter == parameter);
            for (slice, (_, values)) in slices.zip(&values) {
                zero.write(kind, slice, values)?;
            }
        }
    }
    Ok(())
}

fn load_best(zero: &Zero, source: &mut Source<'_>) -> Result<Snapshot, Error> {
    let mut best = zero.snapshot()?;
    let held = zero.held(StateKind::Parameter);
    // Every rank asks for every tensor, as in `load`.
    for parameter in 0..zero.num_parameters() {
        let len = zero.shape(parameter).iter().product::<i64>() as usize;
        let slices: Vec<_> = held.iter().filter(|slice| slice.parameter == parameter).collect();
        let mut values: Vec<Vec<f32>> = slices.iter().map(|slice| vec![0.0; slice.len]).collect();
        let offsets = slices.iter().map(|slice| slice.offset);
        let mut parts: Vec<(usize, &mut [f32])> =
            offsets.zip(values.iter_mut().map(Vec::as_mut_slice)).collect();
        source.fill((TensorKind::Best, zero.name(parameter)), len, &mut parts)?;
        for (slice, values) in slices.into_iter().zip(&values) {
            zero.write_to(&mut best, slice, values)?;
        }
    }
    best.buffers = load_buffers(zero, TensorKind::Best, source)?;
    Ok(best)
}

fn load_buffers(
    zero: &Zero,
    kind: TensorKind,
    source: &mut Source<'_>,
) -> Result<Vec<Vec<u8>>, Error> {
    let mut found = zero.buffers().snapshot()?;
    for (index, bytes) in found.iter_mut().enumerate() {
        let len = zero.buffers().shape(index).iter().product();
        source.fill_whole((kind, zero.buffers().name(index)), len, bytes)?;
    }
    Ok(found)
}
