//! Whether the CPUs of a job have instructions for the precision that it computes in.
//!
//! Promise: what is said follows from the kernel's list of the CPU's features and what the ranks
//! found. Refusal: changes no precision; a job trains in what it asks for.

use common::spec::{Device, JobSpec, PrecisionKind};

use crate::error::Error;
use crate::zero::Zero;

/// Said at start where a rank would compute in bf16 without instructions for it. Collective.
pub(crate) fn warning(spec: &JobSpec, zero: &Zero, rank: u32) -> Result<Option<String>, Error> {
    if !computes_bf16_on_cpus(spec) {
        return Ok(None);
    }
    // Where /proc does not tell there is nothing to say.
    let cpu = fs_err::read_to_string("/proc/cpuinfo").ok().and_then(|text| Cpu::of(&text));
    let is_slow = cpu.as_ref().is_some_and(|cpu| !cpu.has_bf16);
    let mut first = [if is_slow { i64::from(rank) } else { i64::MAX }];
    zero.with_link(|link| link.min_i64(&mut first))
        .map_err(Error::communication("compare the ranks' CPUs", 0))?;
    let [first] = first;
    Ok(u32::try_from(first).ok().map(|first| said(first, cpu.filter(|_| first == rank))))
}

/// The same on every rank (A7).
fn computes_bf16_on_cpus(spec: &JobSpec) -> bool {
    let is_cpu = spec.resources.device != Device::Cuda;
    is_cpu && spec.training.precision.effective == PrecisionKind::Bf16
}

/// `cpu` is that of rank `first`, where this rank knows it.
fn said(first: u32, cpu: Option<Cpu>) -> String {
    let model = cpu.map(|cpu| format!(", {},", cpu.model)).unwrap_or_default();
    format!(
        "precision: bf16 is computed without instructions for it: the CPU of rank \
         {first}{model} has neither avx512_bf16 nor amx_bf16; a step takes many times what it takes \
         in fp32 (ten times for an LSTM, measured with AVX2); --set training.precision=fp32, or \
         bf16.enabled: false in the DeepSpeed configuration, trains in fp32"
    )
}

/// What matters of a CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cpu {
    model: String,
    has_bf16: bool,
}

impl Cpu {
    /// Of `/proc/cpuinfo`, whose CPUs are alike; None where it lists no features.
    fn of(cpuinfo: &str) -> Option<Self> {
        let value = |key: &str| {
            let mut pairs = cpuinfo.lines().filter_map(|line| line.split_once(':'));
            pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
        };
        let mut flags = value("flags")?.split_ascii_whitespace();
        let has_bf16 = flags.any(|flag| ["avx512_bf16", "amx_bf16"].contains(&flag));
        Some(Self { model: value("model name").unwrap_or("unknown").to_owned(), has_bf16 })
    }
}

#[cfg(test)]
mod tests {
    use common::spec::Precision;

    use super::*;
    use crate::tests::spec::job;

    #[test]
    fn a_cpu_has_bf16_if_the_kernel_lists_it() {
        let of = |flags: &str| {
            Cpu::of(&format!("processor\t: 0\nmodel name\t: A B\nflags\t\t: {flags}\n"))
        };
        let cpu = |has_bf16| Some(Cpu { model: "A B".to_owned(), has_bf16 });
        assert_eq!(of("fpu avx2 avx512f avx512_fp16"), cpu(false));
        assert_eq!(of("fpu avx512_bf16 avx2"), cpu(true));
        assert_eq!(of("amx_bf16"), cpu(true));
        assert_eq!(Cpu::of("processor\t: 0\nFeatures\t: fp asimd\n"), None);
    }

    #[test]
    fn the_note_names_what_lacks_and_what_to_do() {
        let text = said(3, Some(Cpu { model: "A B".to_owned(), has_bf16: false }));
        for part in ["CPU of rank 3, A B, has neither", "avx512_bf16", "training.precision=fp32"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(said(1, None).contains("CPU of rank 1 has neither"));
    }

    #[test]
    fn only_bf16_on_cpus_is_asked_about() {
        let with = |effective, device| {
            let change = |spec: &mut JobSpec| {
                spec.training.precision = Precision { effective, ..Precision::FP32 };
                spec.resources.device = device;
            };
            computes_bf16_on_cpus(&job().with(change).build())
        };
        assert!(with(PrecisionKind::Bf16, Device::Cpu) && with(PrecisionKind::Bf16, Device::Auto));
        assert!(!with(PrecisionKind::Bf16, Device::Cuda));
        assert!(!with(PrecisionKind::Fp32, Device::Cpu) && !with(PrecisionKind::Fp16, Device::Cpu));
    }
}
