//! What every adapter of a port does, whatever is behind it. A new adapter is one more line in the
//! list of its port.

mod layers;
mod sinks;
mod stores;
mod verifiers;

/// A test for each behaviour of each adapter. A behaviour is a function of a fresh adapter.
macro_rules! contract {
    ($behaviours:tt $($adapter:ident => $build:expr;)+) => {
        $(crate::contracts::contract! { @adapter $behaviours $adapter $build })+
    };
    (@adapter [$($behaviour:ident)+] $adapter:ident $build:expr) => {
        mod $adapter {
            use super::*;
            $(
                #[test]
                fn $behaviour() {
                    super::$behaviour(|| $build);
                }
            )+
        }
    };
}
use contract;

/// Runs a future to its end where many tasks run at once.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(4).enable_all().build().unwrap().block_on(future)
}
