//! From a context to a trainer, and from its end to an outcome. Every step here is taken by all
//! ranks in the same order.

use std::time::Instant;

use common::memory::Sizes;
use common::position::Phase;
use common::spec::{self, Checkpoint, JobSpec, RecurrentKernel, Validate};
use common::status::{RankMemory, Summary};
use tch::Kind;

use crate::data::{self, Dataset, Task};
use crate::error::Error;
use crate::model::{self, Model};
use crate::monitor::{Position, ValidationColumns};
use crate::precision::{self, Precision};
use crate::report::{Report, peak_resident_bytes};
use crate::save::{self, Resumed, SaveThread, Saver, Start, StateCopy};
use crate::schedule::Schedule;
use crate::summary::{Measured, summarise};
use crate::train::{End, Measure, Pace, Plan, State, Trainer};
use crate::zero::{Communicators, Zero};
use crate::{Device, Outcome, RankContext, memory, native, output};

/// A job without a test part keeps no such weights, and may be continued by one that has it.
const LOST_BEST: &str = "the checkpoint does not hold the weights of its best validation: unless \
                         validation improves, the test part is judged on the last weights";

/// Until somebody has compared it on one.
const UNPROVEN: &str = "which has not been proven on one yet: compare the losses with a run on CPUs \
                        (docs/gpu.md)";

const NATIVE_ON_A_GPU: Error = Error::NotOnGpu {
    what: "model.kernel = \"native\"",
    instead: "set it to \"auto\" or \"libtorch\"",
};

/// Trains one rank.
pub(crate) fn run(context: RankContext) -> Result<Outcome, Error> {
    // The thread that called owns every tensor (A8), so its setting is the rank's.
    let threads = context.spec.resources.threads_per_rank;
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    context.device.enter()?;
    let (spec, world) = (context.spec.clone(), context.world);
    if spec.resources.device == spec::Device::Cuda && !context.device.is_gpu() {
        return Err(Error::NoGpu);
    }
    if context.device != Device::CPU && asks_for_native(&spec.model) {
        return Err(NATIVE_ON_A_GPU);
    }
    run_prepared(context).map_err(|error| memory::explain(error, &spec, world))
}

fn asks_for_native(model: &spec::Model) -> bool {
    match model {
        spec::Model::Lstm(layers) | spec::Model::Gru(layers) => {
            layers.kernel == RecurrentKernel::Native
        }
        spec::Model::Cnn(_) => false,
    }
}

fn run_prepared(context: RankContext) -> Result<Outcome, Error> {
    let mut trainer = prepare(context)?;
    let end = trainer.trainer.train()?;
    finish(&mut trainer, end)
}

struct Prepared {
    trainer: Trainer,
    run_dir: std::path::PathBuf,
}

/// What the job asks for, before libtorch and the other ranks are needed.
struct Planned {
    data: Dataset,
    plan: Plan,
}

fn plan(spec: &JobSpec, world: u32, device: Device, report: &Report) -> Result<Planned, Error> {
    let data = data::load(&spec.data, spec.job.seed)?;
    let plan = Plan::new(spec, world, data.train.len() as u64)?;
    tracing::info!(
        world,
        samples = data.train.len(),
        batch_size = plan.batch.batch_size.value,
        micro_steps = plan.batch.gradient_accumulation.value,
        steps_per_epoch = plan.steps_per_epoch,
        total_steps = plan.total_steps,
        "planned"
    );
    let notes = spec.notes.iter().chain(&data.notes).chain(&plan.batch.note).cloned();
    let expected = memory::warning(spec, (sizes(&data), &plan.batch), device);
    let notes = notes.chain(idle_patience(spec, &data)).chain(expected);
    notes.for_each(|note| report.note(note));
    Ok(Planned { data, plan })
}

fn idle_patience(spec: &JobSpec, data: &Dataset) -> Option<String> {
    let validates = data.validation.is_some() && spec.training.validate != Validate::Never;
    (spec.training.early_stopping.is_some() && !validates).then(|| {
        "training.early-stopping has nothing to go by: there is no validation part, or \
         training.validate is \"never\""
            .to_owned()
    })
}

/// For the estimate of memory.
fn sizes(data: &Dataset) -> Sizes {
    let inputs = match data.input {
        model::Input::Series(features) => features,
        model::Input::Image(image) => image.channels,
    };
    Sizes { inputs: inputs as u64, outputs: data.output_features as u64 }
}

/// What to know about where this job computes. All ranks of a job are on one kind of device, so all
/// of them take the same branch (A7).
fn about_device(
    device: Device,
    spec: &JobSpec,
    zero: &Zero,
    rank: u32,
) -> Result<Option<String>, Error> {
    if !device.is_gpu() {
        return precision::cpu::warning(spec, zero, rank);
    }
    let (on_gpu, sums) = match device.is_resident() {
        true => ("the model and its updates are", zero.with_link(|link| link.way())),
        false => ("the model computes", "updates and sums over ranks are the host's"),
    };
    // NCCL's run on the GPU, where nobody times them.
    let has_log = spec.monitor.diagnostics.comms_log.is_some() && device.is_resident();
    let log = if has_log { "; comms-log has the hosts' collectives alone" } else { "" };
    Ok(Some(format!("device: {on_gpu} on a GPU, {UNPROVEN}; {sums}{log}")))
}

fn prepare(context: RankContext) -> Result<Prepared, Error> {
    let started = Instant::now();
    let RankContext { spec, run_dir, reporter, stop, pulse, .. } = context;
    let (mut host, device) = (context.communicator, context.device.of_job(&spec));
    let (rank, world, seed) = (context.rank.0, context.world, spec.job.seed);
    let mut report = Report::new(reporter.clone(), rank == 0, world);
    if rank == 0 {
        output::write_effective(&run_dir, &spec)?;
    }
    let Planned { data, mut plan } = plan(&spec, world, device, &report)?;
    let mut model = model::build(&spec.model, data.input, data.output_features, seed)?;
    let measure = Measure::new(&spec.monitor.diagnostics, rank, &mut host, pulse);
    let communicators = Communicators { host, device: context.device_communicator };
    let mut zero = Zero::on(device, &mut model, &spec, communicators)?;
    agree_on_data(&zero, &data)?;
    let start = Start {
        spec: &spec,
        job_id: context.job_id,
        generation: context.generation,
        run_dir: &run_dir,
        worker: &context.worker,
        model: model.describe(),
        instruction_set: instruction_set(&spec, &model, device)?,
        reporter,
    };
    let mut votes = context.save_communicator;
    let root = save::open(start, &mut votes)?;
    let mut resumed = save::resume(&root, &spec.checkpoint.resume, &mut zero, &mut votes)?;
    continue_from(&mut resumed, &mut plan, &spec, &data);
    let Resumed { state, best_weights, is_from_root, gone, notes } = resumed;
    let schedule = Schedule::new(&spec.training, plan.total_steps);
    let notes = root.note().into_iter().chain(notes).chain(zero.note(&spec));
    let notes = notes.chain(untold(&spec, &schedule, plan.total_steps));
    let notes = notes.chain(about_device(device, &spec, &zero, rank)?);
    notes.for_each(|note| report.note(note));
    let from = Position { step: state.step, samples: state.samples };
    report.open_files(&run_dir, &spec.monitor, validation_columns(&data), from)?;
    let saver = Saver::start(
        SaveThread::new(root, votes, gone, report.written()),
        copy_for(&spec.checkpoint, &zero),
        spec.checkpoint.asynchronous,
        spec.job.collective_timeout,
        is_from_root.then_some(state.step),
    )?;
    let resumed_at = (state.step > 0).then_some(state.step);
    let trainer = Trainer {
        rank,
        world,
        plan,
        schedule,
        precision: Precision::new(&spec.training.precision, world),
        data,
        model,
        zero,
        state,
        best_weights,
        report,
        measure,
        saver,
        stop,
        pace: Pace::default(),
        started,
        resumed_at,
        spec,
    };
    trainer.report.progress(trainer.live());
    Ok(Prepared { trainer, run_dir })
}

/// Brings what was saved and what this job plans together.
fn continue_from(resumed: &mut Resumed, plan: &mut Plan, spec: &JobSpec, data: &Dataset) {
    let Resumed { state, best_weights, notes, .. } = resumed;
    state.continue_with(spec.training.early_stopping);
    notes.extend(plan.locate(state));
    plan.continue_from(state);
    if data.test.is_none() {
        // Nobody comes back to them.
        *best_weights = None;
    } else if state.best.is_some() && best_weights.is_none() {
        notes.push(LOST_BEST.to_owned());
    }
    if state.step > 0 {
        notes.extend(nothing_left(plan, state));
    }
}

/// Only saves in the background are worth room that is made ahead.
fn copy_for(spec: &Checkpoint, zero: &Zero) -> StateCopy {
    let is_periodic = spec.every_steps.is_some() || spec.every_epochs.is_some();
    if spec.asynchronous && is_periodic { StateCopy::plan(zero) } else { StateCopy::default() }
}

fn instruction_set(spec: &JobSpec, model: &Model, device: Device) -> Result<String, Error> {
    let weights = model.parameters().first().map_or(Kind::Float, |p| p.tensor.kind());
    let instruction_set = match (device.is_gpu(), device.is_resident()) {
        (false, _) => model::instruction_set(&spec.model, weights)?,
        (true, true) => "cuda".to_owned(),
        // What decides the bits is the GPU; the update is the host's.
        (true, false) => format!("cuda, {}", native::cpu_capability()?),
    };
    tracing::info!(instruction_set, "computing");
    Ok(instruction_set)
}

/// What the schedule warns of, where the job's submission did not tell it already.
fn untold(spec: &JobSpec, schedule: &Schedule, total_steps: u64) -> Option<String> {
    let warning = schedule.warning(total_steps);
    warning.filter(|_| !common::length::is_told_before_start(spec))
}

/// A run that continues from its own end makes no step; that must not look like training.
fn nothing_left(plan: &Plan, state: &State) -> Option<String> {
    if !plan.is_done(state) {
        return None;
    }
    let State { step, epoch, stopped_early, .. } = state;
    let (total, epochs) = (plan.total_steps, plan.epochs);
    let (why, more) = if *stopped_early {
        (", where it stopped early", "give training.early-stopping more patience")
    } else {
        ("", "raise training.epochs or training.max-steps")
    };
    Some(format!(
        "nothing left to train: at step {step} of {total}, after epoch {epoch} of {epochs}{why}; to \
         go on, {more}; to start anew, set checkpoint.resume = \"never\""
    ))
}

fn validation_columns(data: &Dataset) -> ValidationColumns {
    match data.train.task() {
        Task::Regression => ValidationColumns::Loss,
        Task::Classification => ValidationColumns::LossAndAccuracy,
    }
}

/// Ranks that read different files would train on nonsense without a word.
fn agree_on_data(zero: &Zero, data: &Dataset) -> Result<(), Error> {
    let len = |part: &Option<data::Samples>| part.as_ref().map_or(0, data::Samples::len);
    let sizes = [
        ("training samples", data.train.len()),
        ("validation samples", len(&data.validation)),
        ("test samples", len(&data.test)),
        ("input values", data.input.values()),
        ("values to predict", data.output_features),
    ];
    let mut facts: Vec<i64> = sizes.iter().map(|(_, size)| *size as i64).collect();
    facts.push(data.fingerprint());
    // `!` turns the order around: the smallest of a fact's and of its complement's are the smallest
    // fact and the complement of the largest.
    let mut bounds: Vec<i64> = facts.iter().flat_map(|fact| [*fact, !*fact]).collect();
    zero.with_link(|link| link.min_i64(&mut bounds))
        .map_err(Error::communication("compare the ranks' data", 0))?;
    let mut bounds = bounds.chunks_exact(2).map(|pair| (pair[0], !pair[1]));
    for ((what, _), (least, most)) in sizes.into_iter().zip(bounds.by_ref()) {
        if least != most {
            let (least, most) = (least as u64, most as u64);
            return Err(Error::DifferentData { what, least, most });
        }
    }
    match bounds.next() {
        Some((least, most)) if least != most => Err(Error::DifferentValues),
        _ => Ok(()),
    }
}

fn finish(prepared: &mut Prepared, end: End) -> Result<Outcome, Error> {
    let trainer = &mut prepared.trainer;
    trainer.pulse().enter(Phase::Finish);
    let was_stopped = end == End::Stopped;
    let test = if was_stopped { None } else { trainer.test()? };
    let (peak_rss_bytes, memory) = gather_memory(trainer)?;
    let precision = &trainer.spec.training.precision;
    let measured = Measured {
        world: trainer.world,
        stage: trainer.spec.zero.stage,
        precision: precision.effective.word().to_owned(),
        precision_asked: (precision.asked != precision.effective)
            .then(|| precision.asked.word().to_owned()),
        final_loss_scale: trainer.precision.scale(&trainer.state.precision),
        trained_samples: trainer.pace.trained_samples,
        trained_seconds: trainer.pace.trained_seconds,
        resumed_at_step: trainer.resumed_at,
        duration_seconds: trainer.state.seconds_before + trainer.started.elapsed().as_secs_f64(),
        peak_rss_bytes,
        memory,
        checkpoint_stall_seconds: trainer.saver.stall().as_secs_f64(),
        test,
        is_regression: trainer.data.train.task() == Task::Regression,
        was_stopped,
    };
    if let Err(error) = trainer.measure.tell_comms(&prepared.run_dir) {
        trainer.report.note(format!("no log of collectives: {}", crate::error::chain(&error)));
    }
    trainer.report.close();
    let summary = (trainer.rank == 0).then(|| {
        let notes = trainer.report.notes();
        Summary { notes, ..summarise(&trainer.state, measured) }
    });
    if let Some(summary) = &summary {
        output::write_summary(&prepared.run_dir, summary)?;
    }
    Ok(Outcome { summary, stopped: was_stopped })
}

/// By rank: the most resident memory that the process ever had, and what the state takes by kind.
fn gather_memory(trainer: &Trainer) -> Result<(Vec<u64>, Vec<RankMemory>), Error> {
    const NUMBERS: usize = 6;
    let own = trainer.zero.memory();
    let scratch = native::lstm::scratch_bytes() as u64;
    let numbers: [u64; NUMBERS] = [
        peak_resident_bytes().unwrap_or(0),
        own.parameters,
        own.gradients,
        own.optimizer,
        own.buffers + scratch,
        trainer.measure.activations.unwrap_or(0),
    ];
    // Each rank fills its own place; the sum is the list. f64 counts bytes exactly to 9 PB.
    let mut all = vec![0.0; NUMBERS * trainer.world as usize];
    let place = &mut all[NUMBERS * trainer.rank as usize..][..NUMBERS];
    place.iter_mut().zip(numbers).for_each(|(place, number)| *place = number as f64);
    trainer
        .zero
        .with_link(|link| link.sum_f64(&mut all))
        .map_err(Error::communication("gather the ranks' memory", trainer.state.step))?;
    let all: Vec<u64> = all.into_iter().map(|bytes| bytes as u64).collect();
    let (ranks, _) = all.as_chunks::<NUMBERS>();
    let peaks = ranks.iter().map(|[peak, ..]| *peak).collect();
    let memory =
        ranks.iter().map(|&[_, parameters, gradients, optimizer, buffers, activations]| {
            RankMemory { parameters, gradients, optimizer, buffers, activations }
        });
    Ok((peaks, memory.collect()))
}

#[cfg(test)]
mod tests;
