//! The description is of what there is.

use super::*;
use crate::control_plane::openapi;

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                found.push(reference);
            }
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_operation_is_described_and_every_reference_leads_somewhere() {
    let description = openapi::document(crate::control_plane::authoring::router().into_openapi());
    let description: Value = serde_json::from_str(&description.to_json().unwrap()).unwrap();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut found = Vec::new();
    references(&description, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(description.pointer(pointer).is_some(), "{reference}");
    }
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let named = format!("{method} {path}");
            assert!(
                operation["summary"].as_str().is_some_and(|summary| summary.len() > 10),
                "{named}"
            );
            assert_eq!(operation["security"], json!([{ "token": [] }]), "{named}");
            assert_eq!(
                operation["responses"]["default"]["content"]["application/problem+json"]["schema"]["$ref"],
                "#/components/schemas/Problem",
                "{named}"
            );
            assert!(!operation["tags"].as_array().unwrap().is_empty(), "{named}");
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let described = |name: &str| parameters.iter().any(|one| one["name"] == name && one["in"] == "path");
            for part in path.split(['{', '}']).skip(1).step_by(2) {
                assert!(described(part), "{named}: {part}");
            }
            ids.insert(operation["operationId"].as_str().unwrap().to_owned());
        }
    }
    let operations: usize = description["paths"]
        .as_object()
        .unwrap()
        .values()
        .map(|item| item.as_object().unwrap().len())
        .sum();
    assert_eq!(ids.len(), operations, "generated clients need one name for each");
}
