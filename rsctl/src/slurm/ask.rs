//! From `submit --slurm` and its flags to what the coordinator asks SLURM for.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;

use common::exit::ExitCode;
use common::ids::JobId;
use common::jobfile::{Loaded, Override};
use common::slurm::allocation::AllocationName;
use common::slurm::request::Request;
use common::slurm::script::Script;
use proto::v1;
use service::exit::Failure;

/// The job's allocation; each flag is a key of `[slurm]`.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct SlurmArgs {
    /// Run on nodes of its own: the coordinator asks SLURM for them and gives them back
    #[arg(long)]
    pub(crate) slurm: bool,
    /// With --slurm: SLURM's partition
    #[arg(long, value_name = "NAME", requires = "slurm")]
    partition: Option<String>,
    /// With --slurm: the account that pays
    #[arg(long, value_name = "NAME", requires = "slurm")]
    account: Option<String>,
    /// With --slurm: for how long, in SLURM's forms (30, 2:00:00, 1-12)
    #[arg(long, value_name = "TIME", requires = "slurm")]
    time: Option<String>,
    /// With --slurm: generic resources of each node
    #[arg(long, value_name = "LIST", requires = "slurm")]
    gres: Option<String>,
    /// With --slurm: how many nodes, with one worker on each [default: 1]
    #[arg(long, value_name = "N", requires = "slurm", value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,
    /// With --slurm: CPUs of each node [default: as its ranks need]
    #[arg(long, value_name = "N", requires = "slurm", value_parser = clap::value_parser!(u32).range(1..))]
    cpus_per_task: Option<u32>,
    /// With --slurm: a further flag of sbatch, such as --sbatch=--constraint=a100; may repeat
    #[arg(long, value_name = "FLAG", requires = "slurm", allow_hyphen_values = true)]
    sbatch: Vec<String>,
    /// With --slurm: print the batch script and submit nothing
    #[arg(long, requires = "slurm", conflicts_with_all = ["watch", "json", "sweep"])]
    pub(crate) dry_run: bool,
}

impl SlurmArgs {
    /// The flags as keys of the job file.
    pub(crate) fn overrides(&self) -> Vec<Override> {
        let texts = [
            ("partition", &self.partition),
            ("account", &self.account),
            ("time", &self.time),
            ("gres", &self.gres),
        ];
        let numbers = [("nodes", self.nodes), ("cpus-per-task", self.cpus_per_task)];
        let text = |(key, value): (&str, &Option<String>)| {
            let value = value.clone()?;
            let flag = format!("--{key} {value}");
            Some(Override::flag(&format!("slurm.{key}"), value, &flag))
        };
        let number = |(key, value): (&str, Option<u32>)| {
            let flag = format!("--{key} {}", value?);
            Some(Override::flag(&format!("slurm.{key}"), i64::from(value?), &flag))
        };
        let mut all: Vec<Override> = texts.into_iter().filter_map(text).collect();
        all.extend(numbers.into_iter().filter_map(number));
        if !self.sbatch.is_empty() {
            all.push(Override::flag("slurm.extra", self.sbatch.clone(), "--sbatch"));
        }
        all
    }

    /// What the coordinator is to ask for; None: the job runs on the workers that there are.
    pub(crate) fn request<'a>(&self, loaded: &'a Loaded) -> Result<Option<&'a Request>, Failure> {
        if !self.slurm {
            return Ok(None);
        }
        if loaded.spec.resources.hosts.is_some() {
            let error =
                anyhow!("--slurm: resources.hosts names hosts, and SLURM chooses the nodes");
            let hint = "leave the hosts out, or name them to SLURM: --sbatch=--nodelist=n1,n2";
            return Err(Failure::new(ExitCode::BadConfiguration, error).hint(hint));
        }
        Ok(Some(&loaded.slurm))
    }
}

/// As the coordinator takes it.
pub(crate) fn json(request: Option<&Request>) -> String {
    request.map_or_else(String::new, |request| {
        serde_json::to_string(request).expect("texts and numbers are JSON")
    })
}

/// The script that this coordinator would submit, with a job id like those that it gives.
pub(crate) fn script(
    loaded: &Loaded,
    request: &Request,
    info: &v1::InfoResponse,
) -> Result<String, Failure> {
    let failed = |error| Failure::new(ExitCode::BadConfiguration, anyhow::Error::new(error));
    let job_id = JobId::from_name(&loaded.spec.job.name, "dryrun").map_err(failed)?;
    let name = AllocationName::of_job(job_id, 1);
    let is_elastic = loaded.spec.resources.world_size.is_none();
    Ok(script_of(&name, request, is_elastic, &loaded.spec.job.output_dir, info))
}

/// The script that this coordinator would submit for the allocation.
pub(crate) fn script_of(
    allocation: &AllocationName,
    request: &Request,
    is_elastic: bool,
    output_dir: &Path,
    info: &v1::InfoResponse,
) -> String {
    let script = Script {
        allocation,
        request,
        is_elastic,
        master: &info.slurm_master,
        bin_dir: Path::new(&info.slurm_bin_dir),
        output_dir,
        leave_after: Duration::from_millis(info.slurm_lease_ms),
        allows_commands: info.allows_commands,
    };
    script.render()
}
