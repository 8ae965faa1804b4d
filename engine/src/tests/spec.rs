//! Builds jobs for tests: a tiny model on the sine data, no dropout, no monitors.

use std::path::PathBuf;
use std::time::Duration;

use common::spec::*;

pub(crate) struct Builder(JobSpec);

pub(crate) fn job() -> Builder {
    Builder(JobSpec {
        command: None,
        job: Job {
            name: "test".to_owned(),
            seed: 7,
            priority: 0,
            output_dir: PathBuf::from("/nowhere"),
            labels: Default::default(),
            env: Default::default(),
            collective_timeout: Duration::from_secs(20),
            hang_timeout: Job::HANG_TIMEOUT,
            time_limit: None,
        },
        resources: Resources { device: Device::Cpu, ..Default::default() },
        model: Model::Lstm(Recurrent {
            hidden_size: 8,
            num_layers: 1,
            dropout: 0.0,
            head_dropout: 0.0,
            bidirectional: false,
            kernel: RecurrentKernel::Auto,
            init_from: None,
        }),
        data: Data {
            source: DataSource::Sine { samples: 96, validation_samples: 40, noise: 0.1 },
            window: Some(12),
            horizon: Some(1),
            shuffle: true,
            drop_last: true,
        },
        training: training(),
        zero: Zero {
            stage: 0,
            overlap_comm: false,
            reduce_bucket_size: 500_000_000,
            offload_optimizer: None,
            stage3: Stage3::default(),
        },
        checkpoint: Checkpoint {
            dir: None,
            every_steps: None,
            every_epochs: Some(1),
            keep_last: 2,
            keep_best: 1,
            asynchronous: true,
            resume: Resume::Auto,
            layout: Layout::Auto,
        },
        monitor: Monitor {
            tensorboard: false,
            csv: true,
            deepspeed_tensorboard_dir: None,
            deepspeed_csv_dir: None,
            diagnostics: Default::default(),
        },
        restart: Restart::NEVER,
        notes: Vec::new(),
    })
}

fn training() -> Training {
    let sourced = |value| Some(Sourced { value, origin: "test".to_owned() });
    Training {
        epochs: 2,
        max_steps: None,
        max_eval_steps: None,
        validate: Validate::EveryEpochs(1),
        early_stopping: None,
        batch: Batch {
            batch_size: sourced(16),
            micro_batch_size: sourced(8),
            gradient_accumulation: None,
            mismatch: BatchMismatch::Adapt,
        },
        optimizer: Optimizer {
            learning_rate: 0.01,
            weight_decay: 0.01,
            rule: UpdateRule::AdamW { betas: [0.9, 0.999], eps: 1e-8, bias_correction: true },
        },
        schedule: Schedule::Constant,
        gradient_clipping: 1.0,
        precision: Precision::FP32,
        gradient_compression: Default::default(),
        freeze: Vec::new(),
        activation_checkpointing: false,
        steps_per_print: None,
    }
}

/// The settings of the tests' recurrent model.
pub(crate) fn recurrent(spec: &mut JobSpec) -> &mut Recurrent {
    match &mut spec.model {
        Model::Lstm(recurrent) | Model::Gru(recurrent) => recurrent,
        Model::Cnn(_) => panic!("the job has a cnn"),
    }
}

impl Builder {
    pub(crate) fn batch(self, batch_size: u64, micro: u64) -> Self {
        let sourced = |value| Some(Sourced { value, origin: "test".to_owned() });
        self.with(|spec| {
            spec.training.batch.batch_size = sourced(batch_size);
            spec.training.batch.micro_batch_size = sourced(micro);
        })
    }

    pub(crate) fn epochs(self, epochs: u32) -> Self {
        self.with(|spec| spec.training.epochs = epochs)
    }

    pub(crate) fn max_steps(self, steps: u64) -> Self {
        self.with(|spec| spec.training.max_steps = Some(steps))
    }

    pub(crate) fn drop_last(self, drop_last: bool) -> Self {
        self.with(|spec| spec.data.drop_last = drop_last)
    }

    pub(crate) fn stage(self, stage: u8) -> Self {
        self.with(|spec| spec.zero.stage = stage)
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut JobSpec)) -> Self {
        change(&mut self.0);
        self
    }

    pub(crate) fn build(self) -> JobSpec {
        self.0
    }
}
