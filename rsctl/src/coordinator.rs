//! The coordinator as rsctl sees it: meaning in, meaning out, a deadline on every question. An
//! error says what was asked and gives the exit code.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use common::exit::ExitCode;
use common::ids::{AttemptId, JobId};
use common::slurm::pool::{Pool, PoolName, PoolStatus};
use common::status::{
    CheckpointRow, Explanation, JobRow, JobState, JobStatus, MetricPoint, UnixMillis, WorkerRow,
};
use proto::convert;
use proto::v1;
use proto::v1::coordinator_client::CoordinatorClient;
use service::exit::Failure;
use service::transport::{self, Timeouts};

/// One question and its answer. The coordinator answers from memory; a submit also syncs its store.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// The first message of a stream that must come from a worker's disk.
const FIRST_CHUNK_WITHIN: Duration = Duration::from_secs(60);
/// A file transfer that stands still this long has failed.
const CHUNK_WITHIN: Duration = Duration::from_secs(30);

/// A connection to one coordinator.
#[derive(Debug, Clone)]
pub(crate) struct Coordinator {
    address: String,
    client: CoordinatorClient<Channel>,
}

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{operation}: {}", .status.message())]
    Refused { operation: String, status: Status },
    #[error("{operation}: lost the coordinator at {address} ({reason})")]
    Lost { operation: String, address: String, reason: String },
    #[error("{operation}: what listens at {address} is no coordinator of this version ({reason})")]
    Stranger { operation: String, address: String, reason: String },
    #[error("{operation}: the coordinator at {address} did not answer within {} s", .after.as_secs())]
    Silent { operation: String, address: String, after: Duration },
    #[error("{operation}: the coordinator's answer means nothing to this rsctl")]
    Answer {
        operation: String,
        #[source]
        source: convert::Error,
    },
}

impl Error {
    /// Whether the coordinator may be back in a moment.
    pub(crate) fn is_retryable(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Silent { .. })
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Lost { .. } | Self::Silent { .. } | Self::Stranger { .. } => {
                ExitCode::CoordinatorUnreachable
            }
            Self::Refused { status, .. } if status.code() == Code::InvalidArgument => {
                ExitCode::BadConfiguration
            }
            Self::Refused { .. } | Self::Answer { .. } => ExitCode::Failed,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Lost { .. } | Self::Silent { .. } => {
                Some("is a coordinator running there? `rsctl watch JOB` waits for its return")
            }
            Self::Stranger { .. } => Some("check --master and RUSTSPEED_MASTER"),
            Self::Answer { .. } => Some("use rsctl and coordinator of the same version"),
            Self::Refused { .. } => None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = error.hint().map(str::to_owned);
        Self { code: error.exit_code(), hint, error: error.into() }
    }
}

/// Which log lines to read.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogQuery {
    /// Empty: all.
    pub(crate) ranks: Vec<u32>,
    /// 0: all.
    pub(crate) attempt: u32,
    pub(crate) follow: bool,
    /// 0: all that are kept.
    pub(crate) tail: u32,
    pub(crate) since: UnixMillis,
    /// Empty: all lines.
    pub(crate) grep: String,
    /// Where to go on: (attempt, rank) -> the first line that is wanted.
    pub(crate) positions: BTreeMap<(u32, u32), u64>,
}

/// Which jobs a list shows; what is empty fits all.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobFilter {
    pub(crate) group: Option<String>,
    pub(crate) prefix: String,
    pub(crate) states: Vec<JobState>,
}

/// Points of one metric of one rank.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) rank: u32,
    /// Of the attempt that measured them; 0: the coordinator is too old to say.
    pub(crate) generation: u64,
    pub(crate) points: Vec<MetricPoint>,
}

impl Coordinator {
    /// Connects, or says with exit code 3 that nobody is there.
    pub(crate) async fn connect(address: &str) -> Result<Self, transport::Error> {
        let channel = transport::connect(address, &Timeouts::default()).await?;
        let client = CoordinatorClient::new(channel)
            .max_decoding_message_size(transport::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(transport::MAX_MESSAGE_BYTES);
        Ok(Self { address: address.to_owned(), client })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn submit(&mut self, request: v1::SubmitRequest) -> Result<JobId, Error> {
        let operation = "submit the job";
        let mut client = self.client.clone();
        let answer = self.ask(operation, client.submit(request)).await?;
        self.read(operation, convert::job_id(&answer.job_id))
    }

    /// All jobs that fit, page by page, in the order of submission.
    pub(crate) async fn jobs(&mut self, filter: &JobFilter) -> Result<Vec<JobRow>, Error> {
        let operation = "list jobs";
        let mut rows = Vec::new();
        let mut page = String::new();
        loop {
            let request = v1::ListJobsRequest {
                group: filter.group.clone().unwrap_or_default(),
                prefix: filter.prefix.clone(),
                states: filter.states.iter().map(|state| state.as_str().to_owned()).collect(),
                limit: 0,
                page,
            };
            let mut client = self.client.clone();
            let answer = self.ask(operation, client.list_jobs(request)).await?;
            let read = answer.jobs.into_iter().map(JobRow::try_from).collect();
            let read: Vec<JobRow> = self.read(operation, read)?;
            rows.extend(read);
            page = answer.next_page;
            if page.is_empty() {
                return Ok(rows);
            }
        }
    }

    /// A new job that is as the ended one was.
    pub(crate) async fn requeue(&mut self, request: v1::RequeueRequest) -> Result<JobId, Error> {
        let operation = format!("requeue job {}", request.job_id);
        let mut client = self.client.clone();
        let answer = self.ask(&operation, client.requeue_job(request)).await?;
        self.read(&operation, convert::job_id(&answer.job_id))
    }

    /// Makes a running job leave its slots; the attempt that leaves.
    pub(crate) async fn preempt(
        &mut self,
        request: v1::PreemptRequest,
    ) -> Result<AttemptId, Error> {
        let operation = format!("preempt job {}", request.job_id);
        let mut client = self.client.clone();
        Ok(AttemptId(self.ask(&operation, client.preempt_job(request)).await?.attempt))
    }

    /// Takes a worker out of service or back; its state, empty where it is not connected.
    pub(crate) async fn drain(&mut self, request: v1::DrainRequest) -> Result<String, Error> {
        let operation = format!("drain worker {}", request.worker);
        let mut client = self.client.clone();
        Ok(self.ask(&operation, client.drain_worker(request)).await?.state)
    }

    /// The pool as it is then.
    pub(crate) async fn add_pool(
        &mut self,
        name: &PoolName,
        pool: &Pool,
    ) -> Result<Option<PoolStatus>, Error> {
        let operation = format!("add pool {name}");
        let pool_json = serde_json::to_string(pool).expect("texts and numbers are JSON");
        let request = v1::AddPoolRequest { name: name.to_string(), pool_json };
        let mut client = self.client.clone();
        let answer = self.ask(&operation, client.add_pool(request)).await?;
        self.read(&operation, convert::pool_status(&answer.status_json))
    }

    /// The pool as it is then; None: it is gone.
    pub(crate) async fn change_pool(
        &mut self,
        request: v1::ChangePoolRequest,
    ) -> Result<Option<PoolStatus>, Error> {
        let operation = format!("change pool {}", request.name);
        let mut client = self.client.clone();
        let answer = self.ask(&operation, client.change_pool(request)).await?;
        self.read(&operation, convert::pool_status(&answer.status_json))
    }

    /// By name.
    pub(crate) async fn pools(&mut self) -> Result<Vec<PoolStatus>, Error> {
        let mut client = self.client.clone();
        let answer = self.ask("list pools", client.list_pools(v1::ListPoolsRequest {})).await?;
        let all = answer.status_json.iter().map(|json| convert::pool_status(json));
        let all: Result<Vec<_>, _> = all.collect();
        Ok(self.read("list pools", all)?.into_iter().flatten().collect())
    }

    pub(crate) async fn job(&mut self, job: &JobId) -> Result<JobStatus, Error> {
        let operation = format!("read job {job}");
        let mut client = self.client.clone();
        let answer = self.ask(&operation, client.get_job(job_request(job))).await?;
        self.read(&operation, answer.try_into())
    }

    pub(crate) async fn explain(&mut self, job: &JobId) -> Result<Explanation, Error> {
        let operation = format!("explain job {job}");
        let mut client = self.client.clone();
        let answer = self.ask(&operation, client.explain(job_request(job))).await?;
        self.read(&operation, convert::explanation(&answer.explanation_json))
    }

    /// The present status at once, then one item per change, until the job is final.
    pub(crate) async fn watch(
        &mut self,
        job: &JobId,
    ) -> Result<impl Stream<Item = Result<JobStatus, Error>> + use<>, Error> {
        let operation = format!("watch job {job}");
        let mut client = self.client.clone();
        let stream = self.ask(&operation, client.watch_job(job_request(job))).await?;
        let this = self.clone();
        Ok(stream.map(move |item| {
            let status = item.map_err(|status| this.refused(&operation, status))?;
            this.read(&operation, status.try_into())
        }))
    }

    pub(crate) async fn cancel(&mut self, job: &JobId, now: bool) -> Result<JobState, Error> {
        let operation = format!("cancel job {job}");
        let request = v1::CancelRequest { job_id: job.to_string(), now };
        let mut client = self.client.clone();
        let answer = self.ask(&operation, client.cancel_job(request)).await?;
        self.read(&operation, convert::job_state("state", &answer.state))
    }

    pub(crate) async fn workers(&mut self) -> Result<Vec<WorkerRow>, Error> {
        let operation = "list workers";
        let mut client = self.client.clone();
        let answer = self.ask(operation, client.list_workers(v1::ListWorkersRequest {})).await?;
        self.read(operation, answer.workers.into_iter().map(WorkerRow::try_from).collect())
    }

    /// Who it is, and what its clock says.
    pub(crate) async fn info(&mut self) -> Result<v1::InfoResponse, Error> {
        let mut client = self.client.clone();
        self.ask("ask who it is", client.get_info(v1::InfoRequest {})).await
    }

    /// Has the workers connect to each other, which takes seconds.
    pub(crate) async fn probe_peers(&mut self) -> Result<v1::ProbePeersResponse, Error> {
        let mut client = self.client.clone();
        self.ask("probe the workers", client.probe_peers(v1::ProbePeersRequest {})).await
    }

    /// Log lines as the coordinator keeps them; with `follow`, until the job is final.
    pub(crate) async fn logs(
        &mut self,
        job: &JobId,
        query: &LogQuery,
    ) -> Result<impl Stream<Item = Result<v1::LogLines, Error>> + use<>, Error> {
        let operation = format!("read logs of job {job}");
        let position = |(key, next): (&(u32, u32), &u64)| v1::LogPosition {
            attempt: key.0,
            rank: key.1,
            next: *next,
        };
        let request = v1::ReadLogsRequest {
            job_id: job.to_string(),
            rank: None,
            follow: query.follow,
            tail: query.tail,
            ranks: query.ranks.clone(),
            since_ms: query.since,
            grep: query.grep.clone(),
            attempt: query.attempt,
            positions: query.positions.iter().map(position).collect(),
        };
        let mut client = self.client.clone();
        let stream = self.ask(&operation, client.read_logs(request)).await?;
        let this = self.clone();
        Ok(stream.map_err(move |status| this.refused(&operation, status)))
    }

    /// Metric points after `since_step`; with `follow`, until the job is final.
    pub(crate) async fn metrics(
        &mut self,
        job: &JobId,
        names: &[String],
        follow: bool,
    ) -> Result<impl Stream<Item = Result<Series, Error>> + use<>, Error> {
        let operation = format!("read metrics of job {job}");
        let request = v1::ReadMetricsRequest {
            job_id: job.to_string(),
            names: names.to_vec(),
            follow,
            since_step: 0,
        };
        let mut client = self.client.clone();
        let stream = self.ask(&operation, client.read_metrics(request)).await?;
        let this = self.clone();
        Ok(stream.map(move |item| {
            let series = item.map_err(|status| this.refused(&operation, status))?;
            let points = series.points.into_iter().map(Into::into).collect();
            let v1::MetricSeries { name, rank, generation, .. } = series;
            Ok(Series { name, rank, generation, points })
        }))
    }

    pub(crate) async fn checkpoints(&mut self, job: &JobId) -> Result<Vec<CheckpointRow>, Error> {
        let operation = format!("list checkpoints of job {job}");
        let mut client = self.client.clone();
        let answer = self.ask(&operation, client.list_checkpoints(job_request(job))).await?;
        self.read(&operation, answer.checkpoints.into_iter().map(TryInto::try_into).collect())
    }

    /// Files of a job; the transfer fails when it stands still.
    pub(crate) async fn fetch(
        &mut self,
        job: &JobId,
        what: convert::FetchWhat,
        tag: &str,
    ) -> Result<impl Stream<Item = Result<v1::FileChunk, Error>> + use<>, Error> {
        let operation = format!("fetch {} of job {job}", what.as_str());
        let request = v1::FetchRequest {
            job_id: job.to_string(),
            what: what.as_str().to_owned(),
            tag: tag.to_owned(),
        };
        let mut client = self.client.clone();
        let asking = client.fetch(request);
        let stream = self.ask_within(&operation, FIRST_CHUNK_WITHIN, asking).await?;
        Ok(self.chunks(operation, stream))
    }

    fn chunks(
        &self,
        operation: String,
        stream: Streaming<v1::FileChunk>,
    ) -> impl Stream<Item = Result<v1::FileChunk, Error>> + use<> {
        let this = self.clone();
        futures::stream::try_unfold((stream, FIRST_CHUNK_WITHIN), move |(mut stream, within)| {
            let (this, operation) = (this.clone(), operation.clone());
            async move {
                match tokio::time::timeout(within, stream.message()).await {
                    Ok(Ok(Some(chunk))) => Ok(Some((chunk, (stream, CHUNK_WITHIN)))),
                    Ok(Ok(None)) => Ok(None),
                    Ok(Err(status)) => Err(this.refused(&operation, status)),
                    Err(_) => Err(this.silent(&operation, within)),
                }
            }
        })
    }

    /// Which of these hashes the coordinator does not have.
    pub(crate) async fn missing_blobs(
        &mut self,
        blake3: Vec<String>,
    ) -> Result<Vec<String>, Error> {
        let mut client = self.client.clone();
        let asking = client.find_missing_blobs(v1::BlobHashes { blake3 });
        Ok(self.ask("ask for missing uploads", asking).await?.blake3)
    }

    pub(crate) async fn upload(
        &mut self,
        chunks: impl Stream<Item = v1::BlobChunk> + Send + 'static,
        within: Duration,
    ) -> Result<(), Error> {
        let mut client = self.client.clone();
        let asking = client.upload_blob(chunks);
        self.ask_within("upload an input", within, asking).await.map(drop)
    }

    async fn ask<T>(
        &self,
        operation: &str,
        asking: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Error> {
        self.ask_within(operation, ANSWER_WITHIN, asking).await
    }

    async fn ask_within<T>(
        &self,
        operation: &str,
        within: Duration,
        asking: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(within, asking).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.refused(operation, status)),
            Err(_) => Err(self.silent(operation, within)),
        }
    }

    fn silent(&self, operation: &str, after: Duration) -> Error {
        Error::Silent { operation: operation.to_owned(), address: self.address.clone(), after }
    }

    /// tonic gives a broken connection the codes Unavailable, Unknown ("transport error") or
    /// Cancelled, with the cause as source; what the coordinator itself says has no source.
    fn refused(&self, operation: &str, status: Status) -> Error {
        let operation = operation.to_owned();
        let cause = std::error::Error::source(&status);
        let is_lost = match status.code() {
            Code::Unavailable => true,
            Code::Unknown | Code::Cancelled | Code::Internal => cause.is_some(),
            _ => false,
        };
        if is_stranger(&status) {
            let (address, reason) = (self.address.clone(), status.message().to_owned());
            return Error::Stranger { operation, address, reason };
        }
        if !is_lost {
            return Error::Refused { operation, status };
        }
        // The innermost cause says it in words; the layers above it only say that they pass it on.
        let innermost = std::iter::successors(cause, |error| error.source()).last();
        let reason = innermost.map_or_else(|| status.message().to_owned(), ToString::to_string);
        Error::Lost { operation, address: self.address.clone(), reason }
    }

    fn read<T>(&self, operation: &str, read: Result<T, convert::Error>) -> Result<T, Error> {
        read.map_err(|source| Error::Answer { operation: operation.to_owned(), source })
    }
}

/// Another HTTP server (tonic then derives a status from the HTTP code and says so), or a gRPC
/// server without our service.
fn is_stranger(status: &Status) -> bool {
    status.code() == Code::Unimplemented || status.message().contains("grpc-status header missing")
}

fn job_request(job: &JobId) -> v1::JobRequest {
    v1::JobRequest { job_id: job.to_string() }
}
