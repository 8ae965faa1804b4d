//! What a run measures of itself because it was asked to. On ranks other than 0 it tells nothing.

use std::path::Path;
use std::sync::Arc;

use collectives::Communicator;
use common::spec::{Diagnostics, FlopsProfile, JobSpec};

use crate::comms_log::CommsLog;
use crate::data::Dataset;
use crate::error::Error;
use crate::flops::{self, Measured, Sample};
use crate::model::{Image, Input};
use crate::monitor::StepRecord;
use crate::native::memory::Counting;
use crate::pulse::Pulse;
use crate::report::Report;
use crate::train::breakdown::{Breakdown, Phase};

#[derive(Debug)]
pub(crate) struct Measure {
    pub(crate) breakdown: Breakdown,
    tells_breakdown: bool,
    comms: Option<Arc<CommsLog>>,
    profile: Option<FlopsProfile>,
    /// Bytes, once the attempt has made a step.
    pub(crate) activations: Option<u64>,
}

impl Measure {
    pub(crate) fn new(
        asked: &Diagnostics,
        rank: u32,
        communicator: &mut Communicator,
        pulse: Arc<Pulse>,
    ) -> Self {
        let is_first = rank == 0;
        let comms = asked.comms_log.clone().filter(|_| is_first);
        let comms = comms.map(|asked| Arc::new(CommsLog::new(communicator.world(), asked)));
        if let Some(log) = &comms {
            communicator.observe(log.clone());
        }
        Self {
            breakdown: Breakdown::new(pulse),
            tells_breakdown: asked.wall_clock_breakdown && is_first,
            comms,
            profile: asked.flops_profile.clone().filter(|_| is_first),
            activations: None,
        }
    }

    /// Around the micro-steps of a step. The first one of an attempt shows what all of them take.
    pub(super) fn start_counting(&self) -> Result<Option<Counting>, Error> {
        self.activations.is_none().then(Counting::start).transpose().map_err(Error::Native)
    }

    /// After them.
    pub(super) fn end_counting(&mut self, counting: Option<Counting>) {
        self.activations = self.activations.or(counting.map(Counting::peak));
    }

    /// After a step: its phases, and in the log where one is due.
    pub(super) fn tell_step(&self, report: &mut Report, record: &StepRecord, logs: bool) {
        if !self.tells_breakdown {
            return;
        }
        for (metric, seconds) in self.breakdown.values() {
            report.seconds(metric, record, seconds);
        }
        if logs {
            let millis = |phase| format!("{:.2}", self.breakdown.of(phase) * 1e3);
            tracing::info!(
                step = record.step,
                fetch = millis(Phase::Fetch),
                forward = millis(Phase::Forward),
                backward = millis(Phase::Backward),
                reduce = millis(Phase::Reduce),
                optimizer = millis(Phase::Optimizer),
                save = millis(Phase::Save),
                "time (ms)"
            );
        }
    }

    /// After the step that was asked for, once: what it computed and how fast.
    pub(super) fn profile(
        &self,
        spec: &JobSpec,
        data: &Dataset,
        (record, samples, world): (&StepRecord, u64, u32),
    ) -> Option<Result<(), Error>> {
        let profile = self.profile.as_ref().filter(|asked| asked.step == record.step)?;
        let layers = flops::layers(&spec.model, sample(spec, data));
        let measured = Measured {
            step: record.step,
            world,
            samples,
            forward_seconds: self.breakdown.of(Phase::Forward),
            backward_seconds: self.breakdown.of(Phase::Backward),
            optimizer_seconds: self.breakdown.of(Phase::Optimizer),
            step_seconds: record.step_seconds,
        };
        let text = flops::report(&layers, measured, profile.detailed);
        let Some(path) = &profile.output_file else {
            tracing::info!("{text}");
            return None;
        };
        let output = |source| Error::Output { path: path.clone(), source };
        Some(fs_err::write(path, text).map_err(output))
    }

    /// At the end of the run.
    pub(crate) fn tell_comms(&self, run_dir: &Path) -> Result<(), Error> {
        let output = |source| Error::Output { path: run_dir.join("metrics"), source };
        self.comms.as_ref().map_or(Ok(()), |log| log.tell(run_dir).map_err(output))
    }
}

fn sample(spec: &JobSpec, data: &Dataset) -> Sample {
    let outputs = data.output_features as u64;
    match data.input {
        Input::Series(inputs) => {
            let length = spec.data.window.map_or(1, u64::from);
            Sample { length, width: 1, inputs: inputs as u64, outputs }
        }
        Input::Image(Image { channels, height, width }) => {
            let (length, width) = (height as u64, width as u64);
            Sample { length, width, inputs: channels as u64, outputs }
        }
    }
}
