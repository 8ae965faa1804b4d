//! Pools of SLURM's nodes as clients see them. What is in them goes into batch scripts.

use tonic::{Response, Status};

use common::slurm::pool::{Pool, PoolName, PoolStatus};
use control::coordinator::{Answer, PoolOrder};
use proto::v1;
use proto::v1::change_pool_request::Change;

use crate::core::Input;
use crate::rpc::clients::{refused, unasked};
use crate::rpc::{Front, internal};

/// Of a pool and of a reason.
const MAX_JSON: usize = 64 * 1024;
const MAX_REASON: usize = 256;

impl Front {
    pub(super) async fn add_one_pool(
        &self,
        request: v1::AddPoolRequest,
    ) -> Result<Response<v1::PoolResponse>, Status> {
        let name = pool_name(&request.name)?;
        if request.pool_json.len() > MAX_JSON {
            return Err(Status::invalid_argument(format!("pool_json: at most {MAX_JSON} bytes")));
        }
        let pool: Pool = serde_json::from_str(&request.pool_json)
            .map_err(|error| Status::invalid_argument(format!("pool_json: {error}")))?;
        pool.check().map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
        self.order_pool(name, PoolOrder::Add(Box::new(pool))).await
    }

    pub(super) async fn change_one_pool(
        &self,
        request: v1::ChangePoolRequest,
    ) -> Result<Response<v1::PoolResponse>, Status> {
        let name = pool_name(&request.name)?;
        if request.reason.len() > MAX_REASON {
            return Err(Status::invalid_argument(format!("reason: at most {MAX_REASON} bytes")));
        }
        let order = match request.change() {
            Change::Pause if request.reason.is_empty() => {
                PoolOrder::Pause { reason: "by an operator".to_owned() }
            }
            Change::Pause => PoolOrder::Pause { reason: request.reason },
            Change::Resume => PoolOrder::Resume,
            Change::Remove => PoolOrder::Remove { now: false },
            Change::RemoveNow => PoolOrder::Remove { now: true },
            Change::Unspecified => {
                return Err(Status::invalid_argument("change: none that this coordinator knows"));
            }
        };
        self.order_pool(name, order).await
    }

    async fn order_pool(
        &self,
        name: PoolName,
        order: PoolOrder,
    ) -> Result<Response<v1::PoolResponse>, Status> {
        match self.core.ask(|reply| Input::Pool { name, order, reply }).await? {
            Answer::Pool(status) => {
                let status_json = status.map_or(Ok(String::new()), |status| json(&status))?;
                Ok(Response::new(v1::PoolResponse { status_json }))
            }
            Answer::Refused(refusal) => Err(refused(&refusal)),
            answer => Err(unasked(&answer)),
        }
    }

    pub(super) async fn all_pools(&self) -> Result<Response<v1::ListPoolsResponse>, Status> {
        let pools = self.core.ask(|reply| Input::Pools { reply }).await?;
        let status_json = pools.iter().map(json).collect::<Result<_, _>>()?;
        Ok(Response::new(v1::ListPoolsResponse { status_json }))
    }
}

fn pool_name(text: &str) -> Result<PoolName, Status> {
    text.parse().map_err(|error: common::slurm::pool::InvalidPoolName| {
        Status::invalid_argument(error.to_string())
    })
}

fn json(status: &PoolStatus) -> Result<String, Status> {
    serde_json::to_string(status).map_err(|error| internal("write the pool's status", &error))
}
