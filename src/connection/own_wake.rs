//! A future that shares a task with others, and sleeps through what wakes these.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;

pin_project! {
    /// A future that is polled when it was woken itself, and not whenever its task is: a message for the client must not ask all that
    /// might end the connection, and the socket, whether something has come.
    pub(super) struct OwnWake<F> {
        #[pin]
        future: F,
        bell: Arc<Bell>,
        waker: Waker,
    }
}

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F> OwnWake<F> {
    pub(super) fn new(future: F) -> Self {
        // The first poll is for everybody.
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        let waker = bell.clone().into();
        Self { future, bell, waker }
    }
}

impl<F: Future> Future for OwnWake<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        // In this order: who rings from now on wakes this task again.
        this.bell.task.register(cx.waker());
        if !this.bell.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        this.future.poll(&mut Context::from_waker(this.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_when_it_was_woken_and_at_no_other_time() {
        let (polls, (mine, others)) = (AtomicUsize::new(0), (Notify::new(), Notify::new()));
        let mut waiting = pin!(mine.notified());
        let counted = poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            waiting.as_mut().poll(cx)
        });
        let mut asleep = pin!(OwnWake::new(counted));
        for _ in 0..5 {
            others.notify_one();
            tokio::select! {
                biased;
                () = &mut asleep => unreachable!(),
                () = others.notified() => {}
            }
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        mine.notify_one();
        asleep.await;
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn what_wakes_it_wakes_the_task_that_it_has_moved_to() {
        let notify = Arc::new(Notify::new());
        let woken = notify.clone();
        let mut asleep = Box::pin(OwnWake::new(async move { woken.notified().await }));
        tokio::select! {
            biased;
            () = &mut asleep => unreachable!(),
            () = std::future::ready(()) => {}
        }
        let waiting = tokio::spawn(asleep);
        tokio::task::yield_now().await;
        notify.notify_one();
        waiting.await.unwrap();
    }
}
