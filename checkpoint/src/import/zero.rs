//! Parameters and states that lie in pieces, one file per rank: stages 1 and 2, whose flat buffer
//! is cut across parameters, and stage 3, which cuts every parameter.

use std::collections::BTreeMap;

use crate::import::files::{Files, in_file};
use crate::import::states::states_of;
use crate::import::{Assembled, Contents, Error};
use crate::tensor::TensorKind;
use crate::torch::walk::At;
use crate::torch::{TorchError, TorchFile};

pub(super) fn sharded(files: &Files) -> Result<Contents, Error> {
    let model = files.model();
    let shapes = shapes(model).map_err(in_file(&model.path))?;
    let assembled = |(name, shape)| (name, Assembled { shape, values: BTreeMap::new() });
    let parameters = shapes.into_iter().map(assembled).collect();
    let mut contents = Contents { parameters, ..Contents::default() };
    let world = files.facts().world;
    for file in files.optimizers() {
        let file = file?;
        let added = match files.stage() {
            3 => add_cut_parameters(&mut contents, &file, world),
            _ => add_cut_buffer(&mut contents, &file, world),
        };
        added.map_err(in_file(&file.path))?;
    }
    for (_, Assembled { shape, values }) in &mut contents.parameters {
        let elements: u64 = shape.iter().product();
        for values in values.values_mut().filter(|_| files.stage() == 3) {
            // Every rank has an equal part; what the last one has beyond the end is padding.
            values.truncate(usize::try_from(elements).unwrap_or(usize::MAX));
        }
    }
    Ok(contents)
}

/// Names and shapes of all trained parameters, in the order of the flat buffers.
fn shapes(model: &TorchFile) -> Result<Vec<(String, Vec<u64>)>, TorchError> {
    let mut all = Vec::new();
    for group in model.pickle.top().get("param_shapes")?.items()? {
        for (name, shape) in group.named()? {
            let sizes = shape.items()?.iter().map(At::count).collect::<Result<Vec<u64>, _>>()?;
            // Bounded here, so that products of it are.
            let elements = sizes.iter().try_fold(1_u64, |n, size| n.checked_mul(*size));
            if elements.is_none_or(|elements| elements > i64::MAX as u64 / 8) {
                let (path, found) = (shape.path().to_owned(), format!("{sizes:?}"));
                return Err(TorchError::Shape { path, expected: "a possible shape", found });
            }
            all.push((name.to_owned(), sizes));
        }
    }
    Ok(all)
}

/// A group's part on one rank: the masters, and the states beside them.
type Group = BTreeMap<TensorKind, Vec<f32>>;

fn groups(
    masters: &At<'_>,
    base: &At<'_>,
    file: &TorchFile,
    notes: &mut Vec<String>,
) -> Result<Vec<Group>, TorchError> {
    let state = base.get("state")?;
    let mut groups = Vec::new();
    for (index, master) in (0_i64..).zip(masters.items()?) {
        let mut group = states_of(&state.at(index)?, file, notes)?;
        let values = file.storages.read_f32(master.tensor()?, master.path())?;
        group.insert(TensorKind::Parameter, values);
        groups.push(group);
    }
    Ok(groups)
}

/// All stages say by how many ranks they were cut.
fn check_count(at: &At<'_>, world: u32) -> Result<(), TorchError> {
    let count = at.count()?;
    if count == u64::from(world) {
        return Ok(());
    }
    let (path, found) = (at.path().to_owned(), count.to_string());
    Err(TorchError::Shape { path, expected: "dp_world_size of the model states", found })
}

/// Stages 1 and 2: each rank says which run of which parameter lies where in its part; a
/// parameter's runs follow each other in rank order.
fn add_cut_buffer(contents: &mut Contents, file: &TorchFile, world: u32) -> Result<(), TorchError> {
    let state = file.pickle.top().get("optimizer_state_dict")?;
    state.get("partition_count")?.items()?.iter().try_for_each(|at| check_count(at, world))?;
    let masters = state.get("single_partition_of_fp32_groups")?;
    let base = state.get("base_optimizer_state")?;
    let groups = groups(&masters, &base, file, &mut contents.notes)?;
    let mappings = state.get("param_slice_mappings")?.items()?;
    for (mapping, group) in mappings.iter().zip(&groups) {
        for (name, run) in mapping.named()? {
            let number = |key: &str| -> Result<usize, TorchError> {
                Ok(usize::try_from(run.get(key)?.count()?).unwrap_or(usize::MAX))
            };
            append(contents, group, name, (number("start")?, number("numel")?))?;
        }
    }
    Ok(())
}

/// Takes a run of a group's part to the end of what is known of a parameter.
fn append(
    contents: &mut Contents,
    group: &Group,
    name: &str,
    (start, len): (usize, usize),
) -> Result<(), TorchError> {
    let problem = |problem: String| TorchError::Tensor { path: name.to_owned(), problem };
    let found = contents.parameters.iter_mut().find(|(known, _)| known == name);
    let Some((_, parameter)) = found else {
        return Err(problem("it is no parameter of the model states".to_owned()));
    };
    for (kind, values) in group {
        let end = start.checked_add(len).filter(|end| *end <= values.len());
        let end = end.ok_or_else(|| {
            let found = values.len();
            problem(format!("{len} elements from {start} on leave a part of {found} of {kind}"))
        })?;
        parameter.values.entry(*kind).or_default().extend_from_slice(&values[start..end]);
    }
    Ok(())
}

/// Stage 3: the parts of all parameters one after another, each rounded up to the same length on
/// every rank; groups follow each other too.
fn add_cut_parameters(
    contents: &mut Contents,
    file: &TorchFile,
    world: u32,
) -> Result<(), TorchError> {
    let state = file.pickle.top().get("optimizer_state_dict")?;
    check_count(&state.get("partition_count")?, world)?;
    let (masters, base) = (state.get("fp32_flat_groups")?, state.get("optimizer_state_dict")?);
    let groups = groups(&masters, &base, file, &mut contents.notes)?;
    let mut flat = Group::new();
    for group in groups {
        for (kind, mut values) in group {
            flat.entry(kind).or_default().append(&mut values);
        }
    }
    let part =
        |parameter: &Assembled| parameter.shape.iter().product::<u64>().div_ceil(world.into());
    let parts: Vec<(String, u64)> =
        contents.parameters.iter().map(|(name, found)| (name.clone(), part(found))).collect();
    let mut start = 0;
    for (name, len) in parts {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        append(contents, &flat, &name, (start, len))?;
        start += len;
    }
    Ok(())
}
