//! Flags of torchrun and deepspeed that have another meaning here, or none: taken, so that a command
//! line works unchanged, and said; or refused with what to do where the line would not do what it says.

use crate::launch::Error;

/// Flags that are only there so that command lines work unchanged.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Compatible {
    #[arg(long, hide = true)]
    standalone: bool,
    #[arg(long, hide = true, alias = "rdzv_backend")]
    rdzv_backend: Option<String>,
    #[arg(long, hide = true, alias = "rdzv_endpoint")]
    rdzv_endpoint: Option<String>,
    #[arg(long, hide = true, alias = "rdzv_conf")]
    rdzv_conf: Option<String>,
    /// TORCHELASTIC_RUN_ID.
    #[arg(long, hide = true, alias = "rdzv_id")]
    pub(super) rdzv_id: Option<String>,
    /// ROLE_NAME.
    #[arg(long, hide = true)]
    pub(super) role: Option<String>,
    #[arg(long, hide = true, alias = "node_rank")]
    node_rank: Option<i64>,
    #[arg(long, hide = true, alias = "master_addr")]
    pub(super) master_addr: Option<String>,
    #[arg(long, hide = true, alias = "local_addr")]
    local_addr: Option<String>,
    #[arg(long, hide = true, alias = "monitor_interval")]
    monitor_interval: Option<String>,
    #[arg(long, hide = true, alias = "start_method")]
    start_method: Option<String>,
    #[arg(long, hide = true, alias = "event_log_handler")]
    event_log_handler: Option<String>,
    #[arg(long, hide = true, alias = "signals_to_handle")]
    signals_to_handle: Option<String>,
    #[arg(short = 'r', long, hide = true)]
    redirects: Option<String>,
    #[arg(short = 't', long, hide = true)]
    tee: Option<String>,
    #[arg(long, hide = true, alias = "run_path")]
    run_path: bool,
    #[arg(long, hide = true, alias = "virtual_local_rank")]
    virtual_local_rank: bool,
    #[arg(long, hide = true, alias = "numa_binding")]
    pub(super) numa_binding: Option<String>,
    #[arg(long, hide = true, alias = "logs_specs")]
    logs_specs: Option<String>,
    #[arg(long, hide = true)]
    launcher: Option<String>,
    #[arg(long, hide = true, alias = "no_ssh")]
    no_ssh: bool,
    #[arg(long, hide = true, alias = "no_ssh_check")]
    no_ssh_check: bool,
    #[arg(long, hide = true, alias = "force_multi")]
    force_multi: bool,
    #[arg(long, hide = true, alias = "save_pid")]
    save_pid: bool,
    #[arg(long, hide = true, alias = "venv_script")]
    venv_script: Option<String>,
    #[arg(long, hide = true, alias = "log_level")]
    log_level: Option<String>,
    #[arg(long, hide = true)]
    autotuning: Option<String>,
    #[arg(long, hide = true, alias = "elastic_training")]
    elastic_training: bool,
    #[arg(long, hide = true, alias = "min_elastic_nodes")]
    min_elastic_nodes: Option<String>,
    #[arg(long, hide = true, alias = "max_elastic_nodes")]
    max_elastic_nodes: Option<String>,
}

const RENDEZVOUS: &str = "the coordinator brings ranks together, at a port that is free";
const WATCH: &str = "the end of a rank is seen at once";
const SSH: &str = "ssh, once for each host that is named, starts workers there";
const LOOK: &str = "all hosts are looked at before anything starts";
const FORCE: &str = "a host that is this machine needs no ssh";
const LOGS: &str = "what ranks write comes here, and into files with --log-dir";

impl Compatible {
    /// Whether lines are to tell their rank.
    pub(super) fn wants_prefix(&self) -> bool {
        self.tee.as_deref().is_some_and(|tee| tee != "0")
    }

    /// Whether one of them is deepspeed's alone.
    pub(super) fn is_deepspeeds(&self) -> bool {
        self.launcher.is_some()
            || self.no_ssh_check
            || self.force_multi
            || self.save_pid
            || self.log_level.is_some()
    }

    /// torchrun's word for cores of its own for each rank.
    pub(super) fn binds_cores(&self) -> bool {
        self.numa_binding.as_deref() == Some("exclusive")
    }

    /// What is taken and does nothing, and why.
    pub(super) fn without_effect(&self) -> Vec<String> {
        let given = [
            ("--standalone", self.standalone, RENDEZVOUS),
            ("--rdzv-backend", self.rdzv_backend.is_some(), RENDEZVOUS),
            ("--rdzv-endpoint", self.rdzv_endpoint.is_some(), RENDEZVOUS),
            ("--rdzv-conf", self.rdzv_conf.is_some(), RENDEZVOUS),
            ("--monitor-interval", self.monitor_interval.is_some(), WATCH),
            ("--start-method", self.start_method.is_some(), "the worker starts ranks itself"),
            ("--event-log-handler", self.event_log_handler.is_some(), "rsctl tells what happens"),
            ("--signals-to-handle", self.signals_to_handle.is_some(), "Ctrl-C and SIGTERM are"),
            ("--redirects", self.redirects.is_some(), LOGS),
            ("--logs-specs", self.logs_specs.is_some(), LOGS),
            ("--launcher", self.launcher.is_some(), SSH),
            ("--no_ssh_check", self.no_ssh_check, LOOK),
            ("--force_multi", self.force_multi, FORCE),
            ("--save_pid", self.save_pid, "Ctrl-C or SIGTERM to rsctl stops all ranks"),
            ("--log_level", self.log_level.is_some(), "--quiet says less"),
        ];
        let told = given.into_iter().filter(|(_, is_given, _)| *is_given);
        told.map(|(flag, _, why)| format!("{flag} has no effect: {why}")).collect()
    }

    /// What would not do what it says.
    pub(super) fn check(&self) -> Result<(), Error> {
        const STATIC: &str = "every node is a worker of one coordinator, and one command starts all \
                              of them: rsctl launch --master HOST --nnodes N";
        const NUMA: &str = "`exclusive` is --bind-cores-to-rank: physical cores of its own for each \
                            rank, of one NUMA node where they fit; of the others there is none";
        const ELASTIC: &str = "submit a job with job.command, resources.min-ranks and max-ranks";
        let refused = [
            ("--node-rank", self.node_rank.is_some_and(|rank| rank > 0), STATIC),
            ("--no_ssh", self.no_ssh, STATIC),
            ("--local-addr", self.local_addr.is_some(), "start the worker with --advertise ADDR"),
            ("--run-path", self.run_path, "give the script as a path, or with -m"),
            (
                "--virtual-local-rank",
                self.virtual_local_rank,
                "every rank sees all devices of its node and picks by LOCAL_RANK",
            ),
            ("--numa-binding", self.numa_binding.is_some() && !self.binds_cores(), NUMA),
            ("--autotuning", self.autotuning.is_some(), "rsctl submit --sweep tries settings"),
            ("--elastic_training", self.elastic_training, ELASTIC),
            ("--min_elastic_nodes", self.min_elastic_nodes.is_some(), ELASTIC),
            ("--max_elastic_nodes", self.max_elastic_nodes.is_some(), ELASTIC),
            ("--venv_script", self.venv_script.is_some(), "start the workers inside it"),
        ];
        match refused.into_iter().find(|(_, is_given, _)| *is_given) {
            Some((flag, _, instead)) => Err(Error::NotSupported { flag, instead }),
            None => Ok(()),
        }
    }
}
