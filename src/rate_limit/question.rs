//! Asking a store, at once where it can answer.

use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use crate::clock::Clock;
use crate::quota::{Decision, Decisions};
use crate::store::{ErasedStore, StoreError, TakeRequest, Taking};

/// What is asked about a request: all policies that can refuse it together, and each one in shadow
/// by itself once those have let it through.
pub(super) struct Question {
    pub(super) enforced: TakeRequest,
    /// Which policies have one more take, after those of all, because their callers have quotas of
    /// their own.
    pub(super) with_own: Vec<usize>,
    pub(super) shadows: Vec<TakeRequest>,
}

/// What has been answered so far.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) enforced: Option<Result<Decisions, StoreError>>,
    /// As many as there are policies in shadow, or fewer where the request is refused.
    pub(super) shadows: Vec<Result<Decisions, StoreError>>,
}

/// The answers of a store that has to wait.
pub(super) type Asking = Pin<Box<dyn Future<Output = (Question, Answers)> + Send>>;

impl Question {
    /// Asks what is answered at once, and answers whether that is everything.
    ///
    /// Into a place of the caller's, because every request would move the answers several times.
    pub(super) fn try_ask(&self, store: &dyn ErasedStore, answers: &mut Answers) -> bool {
        answers.enforced = match self.enforced.takes() {
            // All policies are in shadow.
            [] => Some(Ok(Decisions::from_iter([]))),
            _ => store.try_take(&self.enforced),
        };
        complete(&self.enforced, &mut answers.enforced);
        while let Some(shadow) = self.open(answers) {
            let mut answer = store.try_take(shadow);
            complete(shadow, &mut answer);
            match answer {
                Some(answer) => answers.shadows.push(answer),
                None => return false,
            }
        }
        answers.enforced.is_some()
    }

    /// All answers, after those that [`try_ask`](Self::try_ask) has got. Policies in shadow do not
    /// wait for each other.
    pub(super) fn ask(
        self,
        mut answers: Answers,
        store: Arc<dyn ErasedStore>,
        clock: Arc<dyn Clock>,
    ) -> Asking {
        Box::pin(async move {
            if answers.enforced.is_none() {
                answers.enforced = Some(store.clone().take(self.enforced.clone()).await);
                complete(&self.enforced, &mut answers.enforced);
            }
            if self.open(&answers).is_some() {
                let waited = clock.monotonic().saturating_sub(self.enforced.now);
                let open = &self.shadows[answers.shadows.len()..];
                let takings = open.iter().map(|one| store.clone().take(one.clone().after(waited)));
                for (one, mut answer) in open.iter().zip(all(takings.collect()).await) {
                    complete(one, &mut answer);
                    answers.shadows.extend(answer);
                }
            }
            (self, answers)
        })
    }

    /// One decision on each policy that can refuse.
    pub(super) fn on_each<'a>(&self, decisions: &'a Decisions) -> Cow<'a, [Decision]> {
        let (policies, own) = decisions.split_at(decisions.len() - self.with_own.len());
        let mut each = Cow::Borrowed(policies);
        for (&at, &decision) in self.with_own.iter().zip(own) {
            each.to_mut()[at] = policies[at].and(decision);
        }
        each
    }

    /// The next policy in shadow to ask, of a request that is let through.
    fn open(&self, answers: &Answers) -> Option<&TakeRequest> {
        let passes = matches!(&answers.enforced, Some(Ok(decisions)) if decisions.are_allowed());
        self.shadows.get(answers.shadows.len()).filter(|_| passes)
    }
}

/// What is answered to all of these, which are asked at the same time.
async fn all(mut takings: Vec<Taking>) -> Vec<Option<Result<Decisions, StoreError>>> {
    let mut answers: Vec<_> = takings.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (taking, answer) in takings.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let Poll::Ready(ready) = taking.as_mut().poll(cx)
            {
                *answer = Some(ready);
            }
        }
        if answers.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    answers
}

/// A store that leaves something undecided has not answered.
fn complete(asked: &TakeRequest, answer: &mut Option<Result<Decisions, StoreError>>) {
    if let Some(Ok(decisions)) = answer
        && decisions.len() != asked.takes().len()
    {
        let incomplete = "the store has not decided on everything that it was asked";
        *answer = Some(Err(StoreError::new(incomplete)));
    }
}
