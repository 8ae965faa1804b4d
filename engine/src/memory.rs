//! What the node can give against what a rank will need, before and after it runs out. Reads
//! `/proc` and the cgroup; estimates come from `common::memory`.

use std::path::Path;

use common::batch::BatchPlan;
use common::memory::{self, Sizes, advise, in_words};
use common::spec::JobSpec;

use crate::device::Device;
use crate::error::{Error, is_out_of_memory};

/// Said at start where the estimate is more than what is free, where what is updated is.
pub(crate) fn warning(spec: &JobSpec, of: (Sizes, &BatchPlan), device: Device) -> Option<String> {
    match device.free_bytes() {
        Some(free) => warning_of(spec, of, ("its GPU", free)),
        None => warning_of(spec, of, ("this node", available()?)),
    }
}

fn warning_of(
    spec: &JobSpec,
    (sizes, plan): (Sizes, &BatchPlan),
    (place, available): (&str, u64),
) -> Option<String> {
    let needs = memory::estimate(spec, sizes, plan);
    (needs.total() > available).then(|| {
        let advice = advise(spec, sizes, plan.world, available);
        let advice = if advice.is_empty() {
            "no smaller micro-batch and no higher stage fits".to_owned()
        } else {
            format!("nearest settings that fit: {}", advice.join("; or "))
        };
        format!(
            "a rank will need about {needs}, and {place} has {} free: it may be killed; {advice}; \
             see {}#out-of-memory",
            in_words(available),
            common::help::PAGE
        )
    })
}

/// A refused allocation becomes a failure that tells the bytes by kind and what would need less.
pub(crate) fn explain(error: Error, spec: &JobSpec, world: u32) -> Error {
    if !is_out_of_memory(&error) {
        return error;
    }
    let (Some(needs), Some(sizes)) = (memory::of_job(spec, world), Sizes::of(spec)) else {
        return error;
    };
    // What is free now is not what was free then; less than before is a start.
    let goal = available().unwrap_or(u64::MAX).min(needs.total() / 2);
    let advice = advise(spec, sizes, world, goal).join("; or ");
    Error::OutOfMemory { needs, advice, source: Box::new(error) }
}

/// Bytes that this process may still take: of the machine, and of its cgroup where that has a
/// limit. None where neither tells.
fn available() -> Option<u64> {
    let machine = fs_err::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo(&text));
    [machine, cgroup_v2(), cgroup_v1()].into_iter().flatten().min()
}

fn meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn cgroup_v2() -> Option<u64> {
    let text = fs_err::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let folder = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    left(&folder.join("memory.max"), &folder.join("memory.current"))
}

fn cgroup_v1() -> Option<u64> {
    let folder = Path::new("/sys/fs/cgroup/memory");
    left(&folder.join("memory.limit_in_bytes"), &folder.join("memory.usage_in_bytes"))
}

/// Of a limit that is one: `max` and numbers beyond any machine are none.
fn left(limit: &Path, used: &Path) -> Option<u64> {
    let number = |path: &Path| fs_err::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limit = number(limit).filter(|limit| *limit < 1 << 60)?;
    Some(limit.saturating_sub(number(used)?))
}

#[cfg(test)]
mod tests {
    use common::spec::{Cnn, Model, Recurrent};

    use super::*;
    use crate::model::{Image, Input};
    use crate::tests::spec::job;

    #[test]
    fn more_than_is_free_is_said_with_what_would_fit() {
        let spec = job().batch(64, 64).build();
        let sizes = Sizes { inputs: 1, outputs: 1 };
        let plan = common::batch::plan(&spec.training.batch, 2).unwrap();
        let needs = memory::estimate(&spec, sizes, &plan);
        assert_eq!(warning_of(&spec, (sizes, &plan), ("it", needs.total())), None);
        let said = warning_of(&spec, (sizes, &plan), ("it", needs.total() - 1)).unwrap();
        assert!(said.contains("--set training.micro-batch-size=16 needs"), "{said}");
        assert!(said.contains("activations"), "{said}");
    }

    #[test]
    fn a_refused_allocation_tells_bytes_by_kind_and_a_way_out() {
        // More than any machine has: libtorch's allocator refuses it at once.
        let refused = tch::Tensor::f_zeros([1 << 50], (tch::Kind::Float, tch::Device::Cpu));
        let error = Error::torch("make a tensor")(refused.unwrap_err());
        let spec = job().batch(64, 64).build();
        let error = explain(error, &spec, 2);
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("activations") && said.contains("micro-batch-size"), "{said}");
    }

    #[test]
    fn the_estimate_counts_the_parameters_that_models_have() {
        let Model::Lstm(lstm) = job().build().model else { panic!("the builder's is an LSTM") };
        let deep = Recurrent { num_layers: 3, bidirectional: true, ..lstm.clone() };
        let cnn = Cnn {
            channels: vec![4, 8],
            kernel_size: 3,
            hidden_size: 16,
            dropout: 0.0,
            init_from: None,
        };
        let image = Image { channels: 1, height: 8, width: 8 };
        for (model, input, inputs) in [
            (Model::Lstm(lstm), Input::Series(3), 3),
            (Model::Lstm(deep.clone()), Input::Series(3), 3),
            (Model::Gru(deep), Input::Series(3), 3),
            (Model::Cnn(cnn), Input::Image(image), 1),
        ] {
            let built = crate::model::build(&model, input, 10, 7).unwrap();
            let real: Vec<u64> =
                built.parameters().iter().map(|p| p.tensor.numel() as u64).collect();
            let units = memory::units(&model, Sizes { inputs, outputs: 10 });
            assert_eq!(units.concat(), real, "{model:?}");
        }
    }

    #[test]
    fn free_memory_is_read_from_the_machine() {
        assert_eq!(meminfo("MemTotal: 9 kB\nMemAvailable:      12 kB\n"), Some(12 * 1024));
        assert_eq!(meminfo("MemTotal: 9 kB\n"), None);
        assert!(available().unwrap() > 0);
    }
}
