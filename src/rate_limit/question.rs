//! Asking a store, at once where it can answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use crate::clock::Clock;
use crate::quota::Decisions;
use crate::store::{ErasedStore, StoreError, TakeRequest, Taking};

/// What is asked about a request: all policies that can refuse it together, and each one in shadow
/// by itself once those have let it through.
pub(super) struct Question {
    pub(super) enforced: TakeRequest,
    pub(super) shadows: Vec<TakeRequest>,
}

pub(super) struct Answers {
    pub(super) enforced: Result<Decisions, StoreError>,
    /// As many as there are policies in shadow, or fewer where the request is refused.
    pub(super) shadows: Vec<Result<Decisions, StoreError>>,
}

/// The answers of a store that has to wait.
pub(super) type Asking = Pin<Box<dyn Future<Output = (Question, Answers)> + Send>>;

impl Question {
    /// All answers, where none of them has to be waited for, or those that there are.
    #[expect(clippy::result_large_err, reason = "both are moved once, into a future or out of it")]
    pub(super) fn try_ask(&self, store: &dyn ErasedStore) -> Result<Answers, Option<Answers>> {
        let enforced = if self.enforced.takes().is_empty() {
            // All policies are in shadow.
            Ok(Decisions::from_iter([]))
        } else {
            complete(&self.enforced, store.try_take(&self.enforced).ok_or(None)?)
        };
        let mut answers = Answers { enforced, shadows: Vec::new() };
        while let Some(shadow) = self.open(&answers) {
            match store.try_take(shadow) {
                Some(answer) => answers.shadows.push(complete(shadow, answer)),
                None => return Err(Some(answers)),
            }
        }
        Ok(answers)
    }

    /// All answers, after those that [`try_ask`](Self::try_ask) has got. Policies in shadow do not
    /// wait for each other.
    pub(super) fn ask(
        self,
        answered: Option<Answers>,
        store: Arc<dyn ErasedStore>,
        clock: Arc<dyn Clock>,
    ) -> Asking {
        Box::pin(async move {
            let mut answers = match answered {
                Some(answers) => answers,
                None => {
                    let answer = store.clone().take(self.enforced.clone()).await;
                    let enforced = complete(&self.enforced, answer);
                    Answers { enforced, shadows: Vec::new() }
                }
            };
            if self.open(&answers).is_some() {
                let waited = clock.monotonic().saturating_sub(self.enforced.now);
                let open = &self.shadows[answers.shadows.len()..];
                let takings = open.iter().map(|one| store.clone().take(one.clone().after(waited)));
                let decided = all(takings.collect()).await;
                let decided = open.iter().zip(decided);
                answers.shadows.extend(decided.map(|(one, answer)| complete(one, answer)));
            }
            (self, answers)
        })
    }

    /// The next policy in shadow to ask, of a request that is let through.
    fn open(&self, answers: &Answers) -> Option<&TakeRequest> {
        let passes = answers.enforced.as_ref().is_ok_and(|decisions| decisions.are_allowed());
        self.shadows.get(answers.shadows.len()).filter(|_| passes)
    }
}

/// What is answered to all of these, which are asked at the same time.
async fn all(mut takings: Vec<Taking>) -> Vec<Result<Decisions, StoreError>> {
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
    answers.into_iter().flatten().collect()
}

/// A store that leaves something undecided has not answered.
fn complete(
    asked: &TakeRequest,
    answer: Result<Decisions, StoreError>,
) -> Result<Decisions, StoreError> {
    match answer {
        Ok(decisions) if decisions.len() != asked.takes().len() => {
            Err(StoreError::new("the store has not decided on everything that it was asked"))
        }
        answer => answer,
    }
}
