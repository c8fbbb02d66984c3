//! A client of the Kubernetes container runtime interface (CRI), as far as tests and measurements go:
//! the calls of a kubelet to its runtime, one after the other.
//!
//! `proto/api.proto` is the published interface (k8s.io/cri-api, `runtime.v1`); everything that it has
//! can be called through [`Client::runtime`] and [`Client::images`]. What a pod's life takes has a method.

mod config;
pub mod node;
mod stream;

use std::path::Path;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

pub use config::{container, image, mount, pod};
pub use stream::{Ended, StreamError, Streams};

/// The interface's messages and clients.
#[allow(missing_debug_implementations, clippy::all, clippy::pedantic)] // generated
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

use v1::image_service_client::ImageServiceClient;
use v1::runtime_service_client::RuntimeServiceClient;

/// How long a call may take: a kubelet waits two minutes, and hosts made of software are slow.
const PATIENCE: Duration = Duration::from_secs(240);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no threads for the client: {0}")]
    Threads(#[source] std::io::Error),
    #[error("no connection to the runtime at {path}: {source}")]
    Connect { path: String, source: tonic::transport::Error },
}

/// What a call gives.
pub type Answer<T> = Result<T, Status>;

/// A runtime's socket. May be used by many threads at once.
#[derive(Debug)]
pub struct Client {
    threads: tokio::runtime::Runtime,
    channel: Channel,
}

impl Client {
    /// Of the runtime that listens at this socket.
    pub fn connect(socket: &Path) -> Result<Self, ConnectError> {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(ConnectError::Threads)?;
        let path = socket.display().to_string();
        let connecting = async {
            Endpoint::from_shared(format!("unix://{path}"))?.timeout(PATIENCE).connect().await
        };
        let channel = threads
            .block_on(connecting)
            .map_err(|source| ConnectError::Connect { path: path.clone(), source })?;
        Ok(Self { threads, channel })
    }

    /// Any call of the runtime service.
    pub fn runtime<T>(
        &self,
        call: impl AsyncFnOnce(RuntimeServiceClient<Channel>) -> Answer<Response<T>>,
    ) -> Answer<T> {
        let client = RuntimeServiceClient::new(self.channel.clone());
        self.threads.block_on(call(client)).map(Response::into_inner)
    }

    /// Any call of the image service.
    pub fn images<T>(
        &self,
        call: impl AsyncFnOnce(ImageServiceClient<Channel>) -> Answer<Response<T>>,
    ) -> Answer<T> {
        let client = ImageServiceClient::new(self.channel.clone());
        self.threads.block_on(call(client)).map(Response::into_inner)
    }

    /// `RunPodSandbox`: the pod's id.
    pub fn run_pod(&self, config: &v1::PodSandboxConfig, handler: &str) -> Answer<String> {
        let request = v1::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let run = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.run_pod_sandbox(Request::new(request)).await
        };
        Ok(self.runtime(run)?.pod_sandbox_id)
    }

    /// `PodSandboxStatus`.
    pub fn pod_status(&self, pod: &str) -> Answer<v1::PodSandboxStatus> {
        let request =
            v1::PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: false };
        let ask = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.pod_sandbox_status(Request::new(request)).await
        };
        self.runtime(ask)?.status.ok_or_else(|| Status::internal("no status in the answer"))
    }

    /// The pod's address in its network.
    pub fn pod_ip(&self, pod: &str) -> Answer<String> {
        Ok(self.pod_status(pod)?.network.map(|network| network.ip).unwrap_or_default())
    }

    /// `StopPodSandbox`.
    pub fn stop_pod(&self, pod: &str) -> Answer<()> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: pod.to_owned() };
        let stop = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.stop_pod_sandbox(Request::new(request)).await
        };
        self.runtime(stop).map(drop)
    }

    /// `RemovePodSandbox`.
    pub fn remove_pod(&self, pod: &str) -> Answer<()> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: pod.to_owned() };
        let remove = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.remove_pod_sandbox(Request::new(request)).await
        };
        self.runtime(remove).map(drop)
    }

    /// `ListPodSandbox`, all.
    pub fn pods(&self) -> Answer<Vec<v1::PodSandbox>> {
        let list = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await
        };
        Ok(self.runtime(list)?.items)
    }

    /// `CreateContainer`: the container's id.
    pub fn create(
        &self,
        pod: &str,
        config: &v1::ContainerConfig,
        pod_config: &v1::PodSandboxConfig,
    ) -> Answer<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        let create = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.create_container(Request::new(request)).await
        };
        Ok(self.runtime(create)?.container_id)
    }

    /// `StartContainer`.
    pub fn start(&self, container: &str) -> Answer<()> {
        let request = v1::StartContainerRequest { container_id: container.to_owned() };
        let start = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.start_container(Request::new(request)).await
        };
        self.runtime(start).map(drop)
    }

    /// `StopContainer`, which kills after this many seconds.
    pub fn stop(&self, container: &str, timeout: i64) -> Answer<()> {
        let request = v1::StopContainerRequest { container_id: container.to_owned(), timeout };
        let stop = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.stop_container(Request::new(request)).await
        };
        self.runtime(stop).map(drop)
    }

    /// `RemoveContainer`.
    pub fn remove(&self, container: &str) -> Answer<()> {
        let request = v1::RemoveContainerRequest { container_id: container.to_owned() };
        let remove = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.remove_container(Request::new(request)).await
        };
        self.runtime(remove).map(drop)
    }

    /// `ListContainers`, all.
    pub fn containers(&self) -> Answer<Vec<v1::Container>> {
        let list = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.list_containers(v1::ListContainersRequest::default()).await
        };
        Ok(self.runtime(list)?.containers)
    }

    /// `ContainerStatus`.
    pub fn status(&self, container: &str) -> Answer<v1::ContainerStatus> {
        let request =
            v1::ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
        let ask = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.container_status(Request::new(request)).await
        };
        self.runtime(ask)?.status.ok_or_else(|| Status::internal("no status in the answer"))
    }

    /// `ExecSync`; no limit to its time where that is 0.
    pub fn exec_sync(
        &self,
        container: &str,
        command: &[&str],
        timeout: i64,
    ) -> Answer<v1::ExecSyncResponse> {
        let request = v1::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout,
        };
        self.runtime(async |mut runtime: RuntimeServiceClient<_>| {
            runtime.exec_sync(Request::new(request)).await
        })
    }

    /// `Exec`: where its streams can be had, by [`Streams::open`].
    pub fn exec(&self, container: &str, command: &[&str], tty: bool) -> Answer<String> {
        let request = v1::ExecRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            tty,
            stdin: true,
            stdout: true,
            stderr: !tty,
        };
        let exec =
            async |mut runtime: RuntimeServiceClient<_>| runtime.exec(Request::new(request)).await;
        Ok(self.runtime(exec)?.url)
    }

    /// `Attach`: where the container's streams can be had, by [`Streams::open`].
    pub fn attach(&self, container: &str, tty: bool) -> Answer<String> {
        let request = v1::AttachRequest {
            container_id: container.to_owned(),
            stdin: true,
            tty,
            stdout: true,
            stderr: !tty,
        };
        let attach = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.attach(Request::new(request)).await
        };
        Ok(self.runtime(attach)?.url)
    }

    /// `PortForward`: where connections to a port of the pod can be had, by [`Streams::open`].
    pub fn port_forward(&self, pod: &str, port: u16) -> Answer<String> {
        let request =
            v1::PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: vec![i32::from(port)] };
        let forward = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.port_forward(Request::new(request)).await
        };
        Ok(self.runtime(forward)?.url)
    }

    /// `UpdateContainerResources`.
    pub fn update(&self, container: &str, linux: v1::LinuxContainerResources) -> Answer<()> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: container.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        let update = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.update_container_resources(Request::new(request)).await
        };
        self.runtime(update).map(drop)
    }

    /// `ContainerStats`.
    pub fn stats(&self, container: &str) -> Answer<v1::ContainerStats> {
        let request = v1::ContainerStatsRequest { container_id: container.to_owned() };
        let ask = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.container_stats(Request::new(request)).await
        };
        self.runtime(ask)?.stats.ok_or_else(|| Status::internal("no figures in the answer"))
    }

    /// `ListPodSandboxStats`, of one pod.
    pub fn pod_stats(&self, pod: &str) -> Answer<v1::PodSandboxStats> {
        let filter = v1::PodSandboxStatsFilter { id: pod.to_owned(), ..Default::default() };
        let request = v1::ListPodSandboxStatsRequest { filter: Some(filter) };
        let ask = async |mut runtime: RuntimeServiceClient<_>| {
            runtime.list_pod_sandbox_stats(Request::new(request)).await
        };
        let mut all = self.runtime(ask)?.stats;
        all.pop().ok_or_else(|| Status::not_found(format!("no figures of pod {pod}")))
    }

    /// Names of all images.
    pub fn image_names(&self) -> Answer<Vec<String>> {
        let list = async |mut images: ImageServiceClient<_>| {
            images.list_images(v1::ListImagesRequest::default()).await
        };
        Ok(self.images(list)?.images.into_iter().flat_map(|image| image.repo_tags).collect())
    }
}
