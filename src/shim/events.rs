//! What containerd is told without having asked.

use containerd_shim::Context;
use containerd_shim::event::Event;
use containerd_shim::protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_shim::protos::protobuf::{MessageDyn, MessageField};
use containerd_shim::publisher::RemotePublisher;
use tokio::sync::mpsc;

use super::process::Exit;
use super::stdio::Paths;

/// Events that may wait for containerd; more than that are lost, and said so.
const QUEUE: usize = 4096;

type Item = (String, Box<dyn MessageDyn>);

/// Where events go, in their order.
#[derive(Debug, Clone)]
pub struct Events {
    queue: mpsc::Sender<Item>,
}

impl Events {
    /// The queue, and what is to be published of it.
    pub fn new() -> (Self, Published) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        (Self { queue }, Published(receiver))
    }

    fn send(&self, event: impl Event) {
        let topic = event.topic();
        if let Err(error) = self.queue.try_send((topic, Box::new(event))) {
            log::error!("an event is lost: {error}");
        }
    }

    /// A container is there.
    pub fn create(&self, id: &str, bundle: &str, paths: &Paths, pid: u32) {
        let io = TaskIO {
            stdin: paths.stdin.clone(),
            stdout: paths.stdout.clone(),
            stderr: paths.stderr.clone(),
            terminal: paths.terminal,
            ..Default::default()
        };
        self.send(TaskCreate {
            container_id: id.into(),
            bundle: bundle.into(),
            io: MessageField::some(io),
            pid,
            ..Default::default()
        });
    }

    /// A container's program runs.
    pub fn start(&self, id: &str, pid: u32) {
        self.send(TaskStart { container_id: id.into(), pid, ..Default::default() });
    }

    /// A further process is known.
    pub fn exec_added(&self, id: &str, exec: &str) {
        let (container_id, exec_id) = (id.into(), exec.into());
        self.send(TaskExecAdded { container_id, exec_id, ..Default::default() });
    }

    /// A further process's program runs.
    pub fn exec_started(&self, id: &str, exec: &str, pid: u32) {
        let (container_id, exec_id) = (id.into(), exec.into());
        self.send(TaskExecStarted { container_id, exec_id, pid, ..Default::default() });
    }

    /// A process has ended: a container's first where it has no name.
    pub fn exit(&self, id: &str, exec: &str, pid: u32, exit: Exit) {
        self.send(TaskExit {
            container_id: id.into(),
            id: if exec.is_empty() { id } else { exec }.into(),
            pid,
            exit_status: exit.status,
            exited_at: exit.timestamp(),
            ..Default::default()
        });
    }

    /// A container is gone.
    pub fn delete(&self, id: &str, pid: u32, exit: Exit) {
        self.send(TaskDelete {
            container_id: id.into(),
            id: id.into(),
            pid,
            exit_status: exit.status,
            exited_at: exit.timestamp(),
            ..Default::default()
        });
    }

    /// A process of a container was killed for want of memory.
    pub fn oom(&self, id: &str) {
        self.send(TaskOOM { container_id: id.into(), ..Default::default() });
    }

    /// A container stands still.
    pub fn paused(&self, id: &str) {
        self.send(TaskPaused { container_id: id.into(), ..Default::default() });
    }

    /// It goes on.
    pub fn resumed(&self, id: &str) {
        self.send(TaskResumed { container_id: id.into(), ..Default::default() });
    }
}

/// What is published of the queue.
#[derive(Debug)]
pub struct Published(mpsc::Receiver<Item>);

impl Published {
    /// Publishes everything that comes, until nobody can send any more.
    pub async fn run(mut self, publisher: RemotePublisher, namespace: String) {
        while let Some((topic, event)) = self.0.recv().await {
            let sent = publisher.publish(Context::default(), &topic, &namespace, event).await;
            if let Err(error) = sent {
                log::warn!("cannot publish {topic}: {error}");
            }
        }
    }
}
