use http::HeaderMap;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::rejection::{Rejection, grpc, status};

/// For methods that refuse by themselves, with the code, message and wait that the layers send.
impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        let code = Code::from_i32(status::of(rejection.kind()).grpc.into());
        let details = grpc::details(&rejection).unwrap_or_default();
        let mut metadata = HeaderMap::new();
        if let Some(pushback) = grpc::pushback(&rejection) {
            metadata.insert(grpc::PUSHBACK, pushback);
        }
        let metadata = MetadataMap::from_headers(metadata);
        Self::with_details_and_metadata(code, rejection.message(), details.into(), metadata)
    }
}
