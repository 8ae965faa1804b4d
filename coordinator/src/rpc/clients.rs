//! What rsctl asks.

use std::collections::BTreeMap;
use std::path::Path;

use tonic::{Request, Response, Status, Streaming};

use common::slurm::request;
use common::spec::{Command, JobSpec};
use common::status::JobStatus;
use common::units;
use control::coordinator::{Answer, CancelMode, Refusal, Submission};
use proto::convert;
use proto::v1;
use proto::v1::coordinator_server::Coordinator;

use crate::blobs::Hash;
use crate::core::Input;
use crate::rpc::{BoxStream, Front, boxed, malformed, no_such_job, queue};

/// Bounds of one submission; all of it is kept in memory and in the store.
const MAX_SPEC_BYTES: usize = 512 << 10;
const MAX_JOB_TOML_BYTES: usize = 512 << 10;
const MAX_UPLOADS: usize = 256;
const MAX_REQUEST_ID: usize = 64;
const MAX_PATH: usize = 4096;
const MAX_JOB_NAME: usize = 256;
/// Ranks of one job; as many as log folders can be told apart.
const MAX_WORLD: u32 = 1 << 16;

#[tonic::async_trait]
impl Coordinator for Front {
    type WatchJobStream = BoxStream<v1::JobStatus>;
    type ReadLogsStream = BoxStream<v1::LogLines>;
    type ReadMetricsStream = BoxStream<v1::MetricSeries>;
    type FetchStream = BoxStream<v1::FileChunk>;

    async fn get_info(
        &self,
        _: Request<v1::InfoRequest>,
    ) -> Result<Response<v1::InfoResponse>, Status> {
        Ok(Response::new(v1::InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: self.info.incarnation.0,
            address: self.info.address.to_string(),
            time_ms: crate::clock::unix_millis(),
            slurm_master: self.info.site.master.clone(),
            slurm_bin_dir: self.info.site.bin_dir.display().to_string(),
            slurm_lease_ms: self.info.site.lease.as_millis().try_into().unwrap_or(u64::MAX),
            allows_commands: self.info.site.allows_commands,
        }))
    }

    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        let submission = Box::new(self.submission(request.into_inner())?);
        let name = submission.spec.job.name.clone();
        self.ask_for_job(&name, move |job_id, reply| {
            let submission = submission.clone();
            Input::Submit { job_id, submission, reply }
        })
        .await
    }

    async fn requeue_job(
        &self,
        request: Request<v1::RequeueRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        self.requeue(request.into_inner()).await
    }

    async fn preempt_job(
        &self,
        request: Request<v1::PreemptRequest>,
    ) -> Result<Response<v1::PreemptResponse>, Status> {
        self.preempt(request.into_inner()).await
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        self.drain(request.into_inner()).await
    }

    async fn add_pool(
        &self,
        request: Request<v1::AddPoolRequest>,
    ) -> Result<Response<v1::PoolResponse>, Status> {
        self.add_one_pool(request.into_inner()).await
    }

    async fn change_pool(
        &self,
        request: Request<v1::ChangePoolRequest>,
    ) -> Result<Response<v1::PoolResponse>, Status> {
        self.change_one_pool(request.into_inner()).await
    }

    async fn list_pools(
        &self,
        _: Request<v1::ListPoolsRequest>,
    ) -> Result<Response<v1::ListPoolsResponse>, Status> {
        self.all_pools().await
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        self.page_of_jobs(request.into_inner()).map(Response::new)
    }

    async fn get_job(
        &self,
        request: Request<v1::JobRequest>,
    ) -> Result<Response<v1::JobStatus>, Status> {
        let job_id = self.known_job(&request.into_inner().job_id)?;
        let status = self.core.views().status(&job_id).ok_or_else(|| no_such_job(&job_id))?;
        Ok(Response::new(JobStatus::clone(&status).into()))
    }

    async fn watch_job(
        &self,
        request: Request<v1::JobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let job_id = self.known_job(&request.into_inner().job_id)?;
        self.follow_job(job_id).map(|receiver| Response::new(boxed(receiver)))
    }

    async fn explain(
        &self,
        request: Request<v1::JobRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        self.explain_job(&request.into_inner().job_id).await
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        let v1::CancelRequest { job_id, now } = request.into_inner();
        let job_id = convert::job_id(&job_id).map_err(|error| malformed(&error))?;
        let mode = if now { CancelMode::Now } else { CancelMode::Save };
        match self.core.ask(|reply| Input::Cancel { job_id, mode, reply }).await? {
            Answer::Cancelling(state) => {
                Ok(Response::new(v1::CancelResponse { state: state.as_str().to_owned() }))
            }
            Answer::Refused(refusal) => Err(refused(&refusal)),
            answer => Err(unasked(&answer)),
        }
    }

    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let workers = self.core.views().workers().into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn probe_peers(
        &self,
        _: Request<v1::ProbePeersRequest>,
    ) -> Result<Response<v1::ProbePeersResponse>, Status> {
        self.probe_all_peers().await.map(Response::new)
    }

    async fn read_logs(
        &self,
        request: Request<v1::ReadLogsRequest>,
    ) -> Result<Response<Self::ReadLogsStream>, Status> {
        self.read_job_logs(request.into_inner())
    }

    async fn read_metrics(
        &self,
        request: Request<v1::ReadMetricsRequest>,
    ) -> Result<Response<Self::ReadMetricsStream>, Status> {
        self.follow_metrics(request.into_inner())
    }

    async fn list_checkpoints(
        &self,
        request: Request<v1::JobRequest>,
    ) -> Result<Response<v1::ListCheckpointsResponse>, Status> {
        let job_id = self.known_job(&request.into_inner().job_id)?;
        let rows = self.core.views().checkpoints(&job_id).ok_or_else(|| no_such_job(&job_id))?;
        let checkpoints = rows.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListCheckpointsResponse { checkpoints }))
    }

    async fn fetch(
        &self,
        request: Request<v1::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        self.fetch_files(request.into_inner())
    }

    async fn find_missing_blobs(
        &self,
        request: Request<v1::BlobHashes>,
    ) -> Result<Response<v1::BlobHashes>, Status> {
        let mut missing = Vec::new();
        for text in request.into_inner().blake3 {
            let hash = Hash::parse(&text)?;
            if !self.blobs.hold(&hash) {
                missing.push(text);
            }
        }
        Ok(Response::new(v1::BlobHashes { blake3: missing }))
    }

    async fn upload_blob(
        &self,
        request: Request<Streaming<v1::BlobChunk>>,
    ) -> Result<Response<v1::BlobHashes>, Status> {
        self.receive_blob(request.into_inner()).await.map(Response::new)
    }
}

impl Front {
    /// Checks a submit at the door.
    fn submission(&self, mut request: v1::SubmitRequest) -> Result<Submission, Status> {
        let command_secret = std::mem::take(&mut request.command_secret);
        let slurm_json = std::mem::take(&mut request.slurm_json);
        let v1::SubmitRequest { spec_json, job_toml, request_id, uploads, .. } = request;
        check_request_id(&request_id)?;
        let group = queue::group(request.group, request.max_running)?;
        let after = queue::after(request.after)?;
        if spec_json.len() > MAX_SPEC_BYTES || job_toml.len() > MAX_JOB_TOML_BYTES {
            return Err(Status::invalid_argument("a job is larger than 512 KiB"));
        }
        if uploads.len() > MAX_UPLOADS {
            let text = format!("{} uploads; at most {MAX_UPLOADS} per job", uploads.len());
            return Err(Status::invalid_argument(text));
        }
        for (path, hash) in &uploads {
            if !Path::new(path).is_absolute() || path.len() > MAX_PATH {
                let text = format!("upload of `{path:.120}`: the path must be absolute");
                return Err(Status::invalid_argument(text));
            }
            if !self.blobs.hold(&Hash::parse(hash)?) {
                let text = format!("`{path}` was not uploaded: there is no blob {hash}");
                return Err(Status::failed_precondition(text));
            }
        }
        let spec = convert::spec(&spec_json).map_err(|error| malformed(&error))?;
        check_spec(&spec)?;
        let key = spec.code_key().filter(|_| !self.info.permit.admits(&command_secret));
        if let Some(key) = key {
            return Err(refused(&Refusal::SecretUnknown { key }));
        }
        let uploads: BTreeMap<String, String> = uploads.into_iter().collect();
        let slurm = slurm(&slurm_json, &spec)?;
        let origin = None;
        Ok(Submission { request_id, spec, job_toml, uploads, group, after, slurm, origin })
    }
}

pub(super) fn check_request_id(request_id: &str) -> Result<(), Status> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let is_right = (1..=MAX_REQUEST_ID).contains(&request_id.len());
    if is_right && request_id.chars().all(is_plain) {
        return Ok(());
    }
    Err(Status::invalid_argument(
        "request_id must be 1 to 64 letters, digits or `-`: it makes a retry harmless",
    ))
}

/// The allocation of its own that a job asks for. What is in it goes into a batch script.
fn slurm(json: &str, spec: &JobSpec) -> Result<Option<request::Request>, Status> {
    if json.is_empty() {
        return Ok(None);
    }
    let refuse = |text: String| Err(Status::invalid_argument(text));
    let request: request::Request = match serde_json::from_str(json) {
        Ok(request) => request,
        Err(error) => return refuse(format!("slurm_json: {error}")),
    };
    if let Err(invalid) = request.check() {
        return refuse(invalid.to_string());
    }
    let (room, world) = (request.room(&spec.resources), spec.resources.smallest_world());
    if room < world {
        let text = format!("slurm: its nodes have room for {room} ranks, and the job has {world}");
        return refuse(text);
    }
    if spec.resources.hosts.is_some() {
        let text =
            "resources.hosts: SLURM chooses the nodes of a job with an allocation of its own";
        return refuse(text.to_owned());
    }
    Ok(Some(request))
}

/// What every room behind the door relies on.
fn check_spec(spec: &JobSpec) -> Result<(), Status> {
    let refuse = |text: String| Err(Status::invalid_argument(text));
    let JobSpec { command, job, resources, .. } = spec;
    if !job.output_dir.is_absolute() {
        return refuse(format!("job.output-dir `{}` must be absolute", job.output_dir.display()));
    }
    if job.name.is_empty() || job.name.len() > MAX_JOB_NAME {
        return refuse(format!("job.name must have 1 to {MAX_JOB_NAME} bytes"));
    }
    let worlds = [resources.world_size, resources.min_ranks, resources.max_ranks];
    if worlds.into_iter().flatten().any(|world| world == 0 || world > MAX_WORLD) {
        let keys = "resources.world-size, min-ranks and max-ranks";
        return refuse(format!("{keys} must be 1 to {MAX_WORLD}"));
    }
    if resources.max_ranks.is_some_and(|most| most < resources.smallest_world()) {
        return refuse("resources.max-ranks must be at least min-ranks".to_owned());
    }
    if resources.threads_per_rank == 0 {
        return refuse("resources.threads-per-rank must be at least 1".to_owned());
    }
    if let Some(Command { line, working_dir, .. }) = command {
        if line.first().is_none_or(String::is_empty) {
            return refuse("job.command must name a program".to_owned());
        }
        if !working_dir.is_absolute() {
            let shown = working_dir.display();
            return refuse(format!("job.working-dir `{shown}` must be absolute"));
        }
    }
    if resources.workers == Some(0) {
        return refuse("resources.workers must be at least 1".to_owned());
    }
    let times = [
        ("job.time-limit", job.time_limit.unwrap_or_default()),
        ("job.hang-timeout", job.hang_timeout),
        ("job.collective-timeout", job.collective_timeout),
        ("restart.backoff", spec.restart.backoff),
        ("restart.max-backoff", spec.restart.max_backoff),
        ("restart.grow-after", spec.restart.grow_after),
    ];
    match times.iter().find(|(_, time)| *time > units::MAX_DURATION) {
        Some((key, _)) => refuse(format!("{key} must be at most ten years")),
        None => Ok(()),
    }
}

/// A bug of ours: the loop answered another question.
pub(super) fn unasked(answer: &Answer) -> Status {
    Status::internal(format!("the answer {answer:?} is to another question"))
}

pub(super) fn refused(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::UnknownJob(_) | Refusal::UnknownWorker(_) | Refusal::UnknownPool(_) => {
            Status::not_found(text)
        }
        Refusal::NotEnded(..)
        | Refusal::NotRunning(..)
        | Refusal::NoCommands
        | Refusal::PoolClosing(_) => Status::failed_precondition(text),
        Refusal::SecretUnknown { .. } => Status::permission_denied(text),
        Refusal::PoolExists(_) => Status::already_exists(text),
        Refusal::QueueFull { .. } | Refusal::TooManyPools => Status::resource_exhausted(text),
        Refusal::IdTaken => Status::internal(text),
    }
}

/// Six characters of base32: easy to read aloud, 30 random bits.
pub(super) fn random_suffix() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let random = uuid::Uuid::new_v4();
    let bytes = random.as_bytes();
    // The first six bytes of a version 4 uuid are all random.
    bytes[..6].iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}
