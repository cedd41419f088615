//! The signature (JWT-20 to JWT-27).

use crate::gate::Gate;
use crate::signer::{Signer, algorithms};

#[test]
fn every_algorithm_opens_the_gate_with_its_jwk_and_its_pem() {
    for algorithm in algorithms() {
        let signer = Signer::new(algorithm);
        Gate::of(signer.key()).accepts(&signer.good(), &format!("{algorithm}"));
    }
}
