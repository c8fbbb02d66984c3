//! The task API: every method is done by a thread that may wait, and its failure told by a code.

use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim::protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::shim_async::Task;
use containerd_shim::protos::ttrpc;
use containerd_shim::{TtrpcContext, TtrpcResult};

use super::error::ShimError;
use super::task;
use super::tasks::Tasks;

/// Answers for one sandbox.
#[derive(Debug)]
pub struct TaskService {
    tasks: Arc<Tasks>,
}

impl TaskService {
    /// For these containers.
    pub fn new(tasks: Arc<Tasks>) -> Self {
        Self { tasks }
    }

    /// Does something that may take its time.
    async fn done<T: Send + 'static>(
        &self,
        method: &'static str,
        act: impl FnOnce(&Arc<Tasks>) -> Result<T, ShimError> + Send + 'static,
    ) -> TtrpcResult<T> {
        let tasks = Arc::clone(&self.tasks);
        let act = move || {
            act(&tasks).map_err(|error| {
                let error = ttrpc::Error::from(error);
                log::debug!("{method}: {error}");
                error
            })
        };
        let done = tokio::task::spawn_blocking(act).await;
        done.unwrap_or_else(|error| Err(ttrpc::Error::Others(format!("{method}: {error}"))))
    }
}

#[async_trait]
impl Task for TaskService {
    async fn state(&self, _: &TtrpcContext, req: StateRequest) -> TtrpcResult<StateResponse> {
        self.done("state", move |tasks| task::state(tasks, &req)).await
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        req: CreateTaskRequest,
    ) -> TtrpcResult<CreateTaskResponse> {
        let pid = self.done("create", move |tasks| task::create(tasks, &req)).await?;
        Ok(CreateTaskResponse { pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, req: StartRequest) -> TtrpcResult<StartResponse> {
        let pid =
            self.done("start", move |tasks| task::start(tasks, &req.id, &req.exec_id)).await?;
        Ok(StartResponse { pid, ..Default::default() })
    }

    async fn delete(&self, _: &TtrpcContext, req: DeleteRequest) -> TtrpcResult<DeleteResponse> {
        self.done("delete", move |tasks| task::delete(tasks, &req.id, &req.exec_id)).await
    }

    async fn pids(&self, _: &TtrpcContext, req: PidsRequest) -> TtrpcResult<PidsResponse> {
        self.done("pids", move |tasks| task::pids(tasks, &req.id)).await
    }

    async fn pause(&self, _: &TtrpcContext, req: PauseRequest) -> TtrpcResult<Empty> {
        self.done("pause", move |tasks| task::pause(tasks, &req.id)).await?;
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, req: ResumeRequest) -> TtrpcResult<Empty> {
        self.done("resume", move |tasks| task::resume(tasks, &req.id)).await?;
        Ok(Empty::default())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> TtrpcResult<Empty> {
        let message = "checkpoints of containers are not supported: a sandbox can be forked";
        Err(ShimError::Unsupported(message.into()).into())
    }

    async fn kill(&self, _: &TtrpcContext, req: KillRequest) -> TtrpcResult<Empty> {
        self.done("kill", move |tasks| task::kill(tasks, &req)).await?;
        Ok(Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, req: ExecProcessRequest) -> TtrpcResult<Empty> {
        self.done("exec", move |tasks| task::exec(tasks, &req)).await?;
        Ok(Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, req: ResizePtyRequest) -> TtrpcResult<Empty> {
        self.done("resize_pty", move |tasks| task::resize_pty(tasks, &req)).await?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, req: CloseIORequest) -> TtrpcResult<Empty> {
        self.done("close_io", move |tasks| task::close_io(tasks, &req)).await?;
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, req: UpdateTaskRequest) -> TtrpcResult<Empty> {
        self.done("update", move |tasks| task::update(tasks, &req)).await?;
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, req: WaitRequest) -> TtrpcResult<WaitResponse> {
        let (_, process) = self.tasks.find_process(&req.id, &req.exec_id)?;
        let mut ended = process.ended();
        let exit = match ended.wait_for(Option::is_some).await {
            Ok(exit) => *exit,
            // The process is held here: its end is told before it is dropped.
            Err(_) => None,
        };
        let exit = exit.ok_or_else(|| ShimError::not_found("process", &req.exec_id))?;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: exit.timestamp(),
            ..Default::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, req: StatsRequest) -> TtrpcResult<StatsResponse> {
        let stats: Any = self.done("stats", move |tasks| task::stats(tasks, &req.id)).await?;
        Ok(StatsResponse { stats: MessageField::some(stats), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, req: ConnectRequest) -> TtrpcResult<ConnectResponse> {
        self.tasks.find(&req.id)?;
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.tasks.pid(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, req: ShutdownRequest) -> TtrpcResult<Empty> {
        self.done("shutdown", move |tasks| task::shutdown(tasks, req.now)).await?;
        Ok(Empty::default())
    }
}
