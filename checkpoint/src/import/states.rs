//! What lies whole in the model states: everything of stage 0; of other stages buffers, frozen
//! parameters and the names of shared ones.

use std::collections::BTreeMap;

use crate::import::files::{Files, in_file};
use crate::import::{Assembled, Contents, Error, slice};
use crate::tensor::TensorKind;
use crate::torch::walk::At;
use crate::torch::{TorchError, TorchFile};

/// The values of one parameter, by kind.
type Values = BTreeMap<TensorKind, Vec<f32>>;

/// What a file says well, but this room does not take over.
enum Unfit {
    File(TorchError),
    Refused(String),
}

impl From<TorchError> for Unfit {
    fn from(error: TorchError) -> Self {
        Self::File(error)
    }
}

/// Stage 0: the optimizer is torch's own, with one state per parameter.
pub(super) fn replicated(files: &Files) -> Result<Contents, Error> {
    let file = files.model();
    let mut contents = Contents::default();
    read_replicated(file, &mut contents).map_err(|unfit| match unfit {
        Unfit::File(source) => in_file(&file.path)(source),
        Unfit::Refused(what) => Error::Unsupported { path: file.path.clone(), what },
    })?;
    Ok(contents)
}

fn read_replicated(file: &TorchFile, contents: &mut Contents) -> Result<(), Unfit> {
    let parameters = trained(file)?;
    let optimizer = file.pickle.top().get("optimizer")?;
    if optimizer.find("fp32_groups_flat")?.is_some() {
        return Err(Unfit::Refused("stage 0 with flat fp32 groups (a fused optimizer)".to_owned()));
    }
    // 16-bit models wrap torch's optimizer, and keep the masters beside it.
    let masters = optimizer.find("fp32_groups")?;
    let inner = optimizer.find("optimizer_state_dict")?.unwrap_or_else(|| optimizer.clone());
    let groups = inner.get("param_groups")?.items()?;
    let [group] = &groups[..] else {
        // Indices count over groups, and nothing says which names a group has.
        let what = format!("stage 0 with {} parameter groups", groups.len());
        return Err(Unfit::Refused(what));
    };
    let indices = group.get("params")?.items()?;
    if indices.len() != parameters.len() {
        let (trained, all) = (indices.len(), parameters.len());
        let what = format!("stage 0 that trains {trained} of {all} parameters");
        return Err(Unfit::Refused(what));
    }
    let masters = match masters {
        Some(groups) => groups.items()?.first().map(At::items).transpose()?,
        None => None,
    };
    let state = inner.get("state")?;
    for (place, (name, module)) in parameters.iter().enumerate() {
        let source = masters.as_ref().map_or(Some(module), |masters| masters.get(place));
        let source = source.ok_or_else(|| TorchError::Shape {
            path: "fp32_groups".to_owned(),
            expected: "a master for each parameter",
            found: format!("none for `{name}`"),
        })?;
        let index = i64::try_from(indices[place].count()?).unwrap_or(i64::MAX);
        let mut values = states_of(&state.at(index)?, file, &mut contents.notes)?;
        values.insert(TensorKind::Parameter, read(file, source)?);
        let shape = module.tensor()?.shape.clone();
        contents.parameters.push(((*name).to_owned(), Assembled { shape, values }));
    }
    Ok(())
}

/// The module's tensors but its buffers, in the model's order.
fn trained(file: &TorchFile) -> Result<Vec<(&str, At<'_>)>, TorchError> {
    let top = file.pickle.top();
    let buffers = buffer_names(&top)?;
    let mut parameters = top.get("module")?.named()?;
    parameters.retain(|(name, _)| !buffers.contains(name));
    Ok(parameters)
}

fn buffer_names<'a>(top: &At<'a>) -> Result<Vec<&'a str>, TorchError> {
    match top.find("buffer_names")? {
        Some(names) => names.items()?.iter().map(At::text).collect(),
        None => Ok(Vec::new()),
    }
}

fn read(file: &TorchFile, at: &At<'_>) -> Result<Vec<f32>, TorchError> {
    file.storages.read_f32(at.tensor()?, at.path())
}

/// The tensors of one optimizer state that this room has a kind for. Steps are counted elsewhere.
pub(super) fn states_of(
    state: &At<'_>,
    file: &TorchFile,
    notes: &mut Vec<String>,
) -> Result<Values, TorchError> {
    let mut values = BTreeMap::new();
    for (name, at) in state.named()? {
        if name == "step" || at.is_none() {
            continue;
        }
        let kind = TensorKind::OPTIMIZER_STATES.into_iter().find(|kind| kind.as_str() == name);
        match (kind, at.tensor()) {
            (Some(kind), Ok(_)) => drop(values.insert(kind, read(file, &at)?)),
            _ => {
                let note = format!("optimizer state `{name}` has no counterpart and was left out");
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
    }
    Ok(values)
}

/// Buffers, frozen parameters and shared names, whatever the stage.
pub(super) fn add_rest(contents: &mut Contents, files: &Files) -> Result<(), Error> {
    let file = files.model();
    add_buffers(contents, file).map_err(in_file(&file.path))?;
    if files.stage() > 0 {
        add_frozen(contents, files)?;
    }
    drop_shared(contents, file).map_err(in_file(&file.path))
}

fn add_buffers(contents: &mut Contents, file: &TorchFile) -> Result<(), TorchError> {
    let top = file.pickle.top();
    let module = top.get("module")?;
    for name in buffer_names(&top)? {
        let at = module.get(name)?;
        let tensor = at.tensor()?;
        let bytes = file.storages.read(tensor, at.path())?;
        let meta = slice(name, TensorKind::Buffer, tensor.storage.dtype, &tensor.shape);
        contents.buffers.push((meta, bytes));
    }
    Ok(())
}

/// At stages 1 and 2 rank 0 has them whole, at stage 3 every rank has its part.
fn add_frozen(contents: &mut Contents, files: &Files) -> Result<(), Error> {
    let mut frozen: Vec<(String, Assembled)> = Vec::new();
    for file in files.models() {
        let file = file?;
        read_frozen(&mut frozen, &file).map_err(in_file(&file.path))?;
        if files.stage() < 3 {
            break;
        }
    }
    for (name, mut parameter) in frozen {
        let elements = parameter.shape.iter().fold(1_u64, |n, size| n.saturating_mul(*size));
        if let Some(values) = parameter.values.get_mut(&TensorKind::Parameter) {
            // The last rank's part is padded.
            values.truncate(usize::try_from(elements).unwrap_or(usize::MAX));
        }
        contents.notes.push(format!("parameter `{name}` was frozen: it has no optimizer states"));
        contents.parameters.push((name, parameter));
    }
    Ok(())
}

fn read_frozen(frozen: &mut Vec<(String, Assembled)>, file: &TorchFile) -> Result<(), TorchError> {
    let top = file.pickle.top();
    let (Some(shapes), Some(parts)) =
        (top.find("frozen_param_shapes")?, top.find("frozen_param_fragments")?)
    else {
        return Ok(());
    };
    for (name, shape) in shapes.named()? {
        let shape = shape.items()?.iter().map(At::count).collect::<Result<Vec<_>, _>>()?;
        let mut values = read(file, &parts.get(name)?)?;
        match frozen.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => {
                known.values.entry(TensorKind::Parameter).or_default().append(&mut values);
            }
            None => {
                let values = BTreeMap::from([(TensorKind::Parameter, values)]);
                frozen.push((name.to_owned(), Assembled { shape, values }));
            }
        }
    }
    Ok(())
}

/// Two names of one tensor: it is kept under the one that the optimizer knows.
fn drop_shared(contents: &mut Contents, file: &TorchFile) -> Result<(), TorchError> {
    let Some(shared) = file.pickle.top().find("shared_params")? else { return Ok(()) };
    for (alias, name) in shared.named()? {
        let name = name.text()?;
        contents.parameters.retain(|(known, _)| known != alias);
        contents.notes.push(format!("`{alias}` is another name of `{name}`, kept under that one"));
    }
    Ok(())
}
