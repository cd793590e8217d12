//! DeleteFeatureGroup: takes a name and no ARN, answers nothing. Data of the offline store stays.

use bytes::Bytes;
use serde::Deserialize;

use super::constraints::Violations;
use super::fault::{Fault, Plane};
use super::{Call, Rest};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    feature_group_name: Option<String>,
}

impl Rest {
    pub(super) async fn delete_feature_group(&self, call: &Call) -> Result<Bytes, Fault> {
        let request: Request = call.shape()?;
        let mut violations = Violations::default();
        if let Some(name) = violations.required("featureGroupName", &request.feature_group_name) {
            violations.name("featureGroupName", name);
        }
        violations.finish(Plane::Control)?;
        let name = request.feature_group_name.unwrap_or_default();
        self.router.delete(&name).await.map_err(|error| Fault::of(Plane::Control, error))?;
        Ok(Bytes::new())
    }
}
