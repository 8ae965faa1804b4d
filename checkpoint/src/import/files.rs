//! The files of one DeepSpeed checkpoint: which there are, and what they say of themselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::disk;
use crate::import::Error;
use crate::torch::{TorchError, TorchFile};

/// `latest` holds the name of a folder.
const MAX_LATEST: u64 = 4096;

/// A folder of a job has a few files per rank.
const MAX_FILES: usize = 200_000;

/// What the model states of rank 0 tell.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) stage: u8,
    pub(super) world: u32,
    pub(super) steps: u64,
    pub(super) skipped_steps: u64,
    pub(super) samples: u64,
    pub(super) version: String,
}

/// A checkpoint of DeepSpeed, opened.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    /// Of rank 0.
    model: TorchFile,
    /// By rank: of stage 3 all, else rank 0's alone.
    models: BTreeMap<u32, PathBuf>,
    /// By rank; none at stage 0.
    optimizers: BTreeMap<u32, PathBuf>,
    facts: Facts,
}

/// A name that DeepSpeed gives.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// `mp_rank_00_model_states.pt`.
    Model,
    /// `zero_pp_rank_3_mp_rank_00_model_states.pt`.
    ModelOf(u32),
    /// `bf16_zero_pp_rank_3_mp_rank_00_optim_states.pt`.
    OptimizerOf(u32),
    /// Another way of being parallel, in words.
    Refused(&'static str),
    Other,
}

impl Files {
    pub(super) fn open(from: &Path) -> Result<Self, Error> {
        let folder = tag_folder(from)?;
        let (mut models, mut optimizers) = (BTreeMap::new(), BTreeMap::new());
        for (name, path) in entries(&folder)? {
            match kind(&name) {
                Kind::Model => drop(models.entry(0).or_insert(path)),
                Kind::ModelOf(rank) => drop(models.insert(rank, path)),
                Kind::OptimizerOf(rank) => drop(optimizers.insert(rank, path)),
                Kind::Refused(what) => {
                    let what = format!("{what} (`{name}`)");
                    return Err(Error::Unsupported { path: folder, what });
                }
                Kind::Other => {}
            }
        }
        let Some(path) = models.get(&0) else {
            let problem = "no file `mp_rank_00_model_states.pt` or \
                           `zero_pp_rank_0_mp_rank_00_model_states.pt`";
            return Err(Error::NotDeepSpeed { path: folder, problem: problem.to_owned() });
        };
        let model = open(path)?;
        let facts = facts(&model).map_err(in_file(path))?;
        let mut files = Self { facts, folder, models, optimizers, model };
        files.check_ranks()?;
        Ok(files)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(super) fn stage(&self) -> u8 {
        self.facts.stage
    }

    /// The model states of rank 0.
    pub(super) fn model(&self) -> &TorchFile {
        &self.model
    }

    /// The model states of every rank that has some, in rank order.
    pub(super) fn models(&self) -> impl Iterator<Item = Result<TorchFile, Error>> {
        self.models.values().map(|path| open(path))
    }

    /// The optimizer states of every rank, in rank order.
    pub(super) fn optimizers(&self) -> impl Iterator<Item = Result<TorchFile, Error>> {
        self.optimizers.values().map(|path| open(path))
    }

    /// Ranks are there without a gap, and the stage is what the files are of.
    fn check_ranks(&mut self) -> Result<(), Error> {
        if let Some(first) = self.optimizers.values().next() {
            let file = open(first)?;
            let stage = stage_of(&file).map_err(in_file(first))?;
            self.facts.stage = u8::try_from(stage).unwrap_or(u8::MAX);
        }
        let path = self.folder.clone();
        let (world, stage) = (self.facts.world, self.facts.stage);
        if stage > 3 {
            return Err(Error::Unsupported { path, what: format!("ZeRO stage {stage}") });
        }
        let gap = |files: &BTreeMap<u32, PathBuf>| (0..world).find(|r| !files.contains_key(r));
        let problem = match (gap(&self.optimizers), gap(&self.models)) {
            (Some(rank), _) if stage > 0 => {
                format!("the optimizer states of rank {rank} of {world} are missing")
            }
            (_, Some(rank)) if stage == 3 => {
                format!("the model states of rank {rank} of {world} are missing")
            }
            _ if self.optimizers.len() > world as usize => {
                let found = self.optimizers.len();
                format!("it has optimizer states of {found} ranks, but {world} saved it")
            }
            _ => return Ok(()),
        };
        Err(Error::NotDeepSpeed { path, problem })
    }
}

pub(super) fn in_file(path: &Path) -> impl FnOnce(TorchError) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

fn open(path: &Path) -> Result<TorchFile, Error> {
    TorchFile::open(path).map_err(in_file(path))
}

fn stage_of(optimizer: &TorchFile) -> Result<u64, TorchError> {
    optimizer.pickle.top().get("optimizer_state_dict")?.get("zero_stage")?.count()
}

fn facts(model: &TorchFile) -> Result<Facts, TorchError> {
    let top = model.pickle.top();
    let optional = |key: &str| match top.find(key)? {
        Some(found) => found.count(),
        None => Ok(0),
    };
    let version = match top.find("ds_version")? {
        Some(version) => version.text()?.chars().filter(|c| !c.is_control()).take(40).collect(),
        None => "of an unknown version".to_owned(),
    };
    let refused = |path: &str, expected: &'static str, found: u64| TorchError::Shape {
        path: path.to_owned(),
        expected,
        found: found.to_string(),
    };
    let parallel = top.get("mp_world_size")?.count()?;
    if parallel != 1 {
        return Err(refused("mp_world_size (tensor parallelism)", "1", parallel));
    }
    let world = top.get("dp_world_size")?.count()?;
    let world = u32::try_from(world).ok().filter(|world| *world > 0);
    Ok(Facts {
        stage: 0,
        world: world.ok_or_else(|| refused("dp_world_size", "a number of ranks", 0))?,
        steps: top.get("global_steps")?.count()?,
        skipped_steps: optional("skipped_steps")?,
        samples: optional("global_samples")?,
        version,
    })
}

/// The folder with the `.pt` files: the one given, or the one that its `latest` names.
fn tag_folder(from: &Path) -> Result<PathBuf, Error> {
    let no = |problem: String| Error::NotDeepSpeed { path: from.to_owned(), problem };
    if entries(from)?.iter().any(|(name, _)| name.ends_with("_model_states.pt")) {
        return Ok(from.to_owned());
    }
    let latest = match disk::read_small(from, "latest", MAX_LATEST) {
        Ok(bytes) => bytes,
        Err(crate::Error::Defective { .. }) => {
            return Err(no("it has neither a file `latest` nor `*_model_states.pt`".to_owned()));
        }
        Err(error) => return Err(error.into()),
    };
    let tag = String::from_utf8_lossy(&latest).trim().to_owned();
    // A tag is one folder below; a path in it would lead elsewhere.
    if tag.is_empty() || tag == ".." || tag == "." || tag.contains(['/', '\0']) {
        return Err(no(format!("its `latest` names {tag:?}, which is no folder of it")));
    }
    Ok(from.join(tag))
}

/// Sorted by name.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let no = |problem: String| Error::NotDeepSpeed { path: folder.to_owned(), problem };
    let listed = std::fs::read_dir(folder).map_err(|error| no(error.to_string()))?;
    let mut found = Vec::new();
    for entry in listed {
        let entry = entry.map_err(|error| no(error.to_string()))?;
        if found.len() == MAX_FILES {
            return Err(no(format!("it has more than {MAX_FILES} files")));
        }
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn kind(name: &str) -> Kind {
    let Some(stem) = name.strip_suffix(".pt") else { return Kind::Other };
    if stem.contains("expert") || stem.contains("expp_rank") {
        return Kind::Refused("a mixture of experts");
    }
    if stem.starts_with("layer_") {
        return Kind::Refused("pipeline parallelism");
    }
    if stem == "mp_rank_00_model_states" {
        return Kind::Model;
    }
    if stem.starts_with("mp_rank_") {
        return Kind::Refused("tensor parallelism");
    }
    let stem = stem.strip_prefix("bf16_").unwrap_or(stem);
    let Some(rest) = stem.strip_prefix("zero_pp_rank_") else { return Kind::Other };
    let Some((rank, rest)) = rest.split_once("_mp_rank_") else { return Kind::Other };
    match (rank.parse(), rest) {
        (Ok(rank), "00_model_states") => Kind::ModelOf(rank),
        (Ok(rank), "00_optim_states") => Kind::OptimizerOf(rank),
        (Ok(_), _) => Kind::Refused("tensor parallelism"),
        (Err(_), _) => Kind::Other,
    }
}
