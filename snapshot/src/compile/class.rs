//! The chain Ingress → IngressClass → `spec.controller`: whose Ingress it is, and which settings its class has.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::store::Store;
use crate::diagnostic::{Diagnostic, DiagnosticReason};
use crate::facts::{ClassFacts, IngressFacts};
use crate::key::{Kind, ObjectKey, ObjectRef};
use crate::model::{Policy, SetBy};
use crate::settings::{Mode, SettingProblem, Settings, overlaid};

/// What an Ingress says about its class. Ingresses are indexed by it, so that a class edit finds them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClassRef {
    /// `spec.ingressClassName`.
    Field(Arc<str>),
    /// Annotation `kubernetes.io/ingress.class`, where the field is absent.
    Annotation(Arc<str>),
    /// Neither.
    None,
}

impl ClassRef {
    /// The reference of an Ingress.
    pub fn of(ingress: &IngressFacts) -> Self {
        match (&ingress.class_name, &ingress.class_annotation) {
            (Some(name), _) => ClassRef::Field(name.clone()),
            (None, Some(name)) => ClassRef::Annotation(name.clone()),
            (None, None) => ClassRef::None,
        }
    }
}

/// An IngressClass as compile sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    /// Its controller is one of ours.
    pub ours: bool,
    /// It is marked as default class.
    pub is_default: bool,
    /// Its age.
    pub created: i64,
    /// Settings of `spec.parameters` over the global ones.
    pub settings: Policy,
}

/// All classes, and the global settings below them. Few and small, so they are recomputed together.
#[derive(Debug, Clone, PartialEq)]
pub struct Classes {
    /// Settings where no class says more: the defaults with the configured ConfigMap over them.
    pub global: Policy,
    /// By name.
    pub by_name: BTreeMap<Arc<str>, Class>,
}

/// What became of an Ingress' class.
#[derive(Debug, Clone, PartialEq)]
pub enum Membership {
    /// Ours, with the class' name (empty: none) and settings.
    Ours { class: Arc<str>, settings: Policy },
    /// Somebody else's.
    Foreign,
    /// It names a class that does not exist.
    Unknown,
}

impl Classes {
    /// Reads all classes.
    pub fn build(store: &Store, settings: &Settings) -> (Classes, Vec<Diagnostic>) {
        let mut diagnostics = Vec::new();
        let global = match settings.config_map.as_ref().and_then(|key| store.config_maps.get(key)) {
            Some(config_map) => {
                let (merged, problems) = overlaid(&settings.defaults, &config_map.data, SetBy::ConfigMap);
                report(&problems, &config_map.key, &mut diagnostics);
                merged
            }
            None => settings.defaults.clone(),
        };
        let by_name = store
            .classes
            .values()
            .map(|facts| {
                let ours = settings.mode == Mode::Standalone || settings.accepts_controller(&facts.controller);
                let class = Class {
                    ours,
                    is_default: facts.is_default,
                    created: facts.created,
                    // What somebody else's class means by its parameters is not ours to judge.
                    settings: match ours {
                        true => with_parameters(facts, &global, store, &mut diagnostics),
                        false => global.clone(),
                    },
                };
                (facts.key.name.clone(), class)
            })
            .collect();
        // Classes may share a ConfigMap; what is wrong with it is said once.
        diagnostics.sort();
        diagnostics.dedup();
        (Classes { global, by_name }, diagnostics)
    }

    /// Decides whose Ingress it is.
    pub fn membership(&self, reference: &ClassRef, settings: &Settings) -> Membership {
        let named = |name: &Arc<str>| {
            let settings = self.by_name.get(name).map_or(&self.global, |class| &class.settings);
            Membership::Ours { class: name.clone(), settings: settings.clone() }
        };
        if settings.serves_every_class() {
            return match reference {
                ClassRef::Field(name) | ClassRef::Annotation(name) => named(name),
                ClassRef::None => {
                    self.default_class(settings).map_or_else(|| named(&Arc::from("")), |name| named(&name))
                }
            };
        }
        match reference {
            // Among files the name is enough: the class object may have stayed in the cluster.
            ClassRef::Field(name) if settings.mode == Mode::Standalone => {
                if settings.ingress_class.as_ref() == Some(name) { named(name) } else { Membership::Foreign }
            }
            ClassRef::Field(name) => match self.by_name.get(name) {
                None => Membership::Unknown,
                Some(class) if class.ours && settings.ingress_class.as_ref().is_none_or(|only| only == name) => {
                    named(name)
                }
                Some(_) => Membership::Foreign,
            },
            ClassRef::Annotation(name) => {
                // A class object of that name that belongs to somebody else speaks against us.
                let taken = self.by_name.get(name).is_some_and(|class| !class.ours);
                if settings.accepts_annotation(name) && !taken { named(name) } else { Membership::Foreign }
            }
            ClassRef::None => match self.default_class(settings) {
                Some(name) => named(&name),
                None if settings.watch_without_class => {
                    named(settings.ingress_class.as_ref().unwrap_or(&Arc::from("")))
                }
                None => Membership::Foreign,
            },
        }
    }

    /// The class that takes Ingresses without one. Should several be marked: the newest, then the first by name, as the
    /// API server's admission does it.
    pub fn default_class(&self, settings: &Settings) -> Option<Arc<str>> {
        self.by_name
            .iter()
            .filter(|(name, _)| settings.ingress_class.as_ref().is_none_or(|only| only == *name))
            .filter(|(_, class)| class.ours && class.is_default)
            .min_by_key(|(name, class)| (Reverse(class.created), (*name).clone()))
            .map(|(name, _)| name.clone())
    }
}

fn with_parameters(facts: &ClassFacts, global: &Policy, store: &Store, diagnostics: &mut Vec<Diagnostic>) -> Policy {
    let Some(parameters) = &facts.parameters else { return global.clone() };
    let object = ObjectRef::new(Kind::IngressClass, &facts.key);
    let mut refuse = |field: &str, message: &str| {
        let message = format!("{message}; the class has the global settings");
        diagnostics.push(Diagnostic::new(object.clone(), DiagnosticReason::ClassParametersInvalid, field, message));
        global.clone()
    };
    if &*parameters.kind != "ConfigMap" || parameters.api_group.is_some() {
        return refuse("spec.parameters.kind", "must be ConfigMap of the core group");
    }
    if &*parameters.scope != "Namespace" {
        return refuse(
            "spec.parameters.scope",
            "must be Namespace, since a Cluster-scoped reference cannot name a ConfigMap",
        );
    }
    let Some(namespace) = &parameters.namespace else {
        return refuse("spec.parameters.namespace", "is missing");
    };
    let key = ObjectKey::new(namespace.clone(), parameters.name.clone());
    let Some(config_map) = store.config_maps.get(&key) else {
        let instead = "the class has the global settings";
        let absent =
            || Some((DiagnosticReason::ClassParametersNotFound, format!("ConfigMap {key} does not exist; {instead}")));
        let problem = store.unknown(Kind::ConfigMap, &key).map_or_else(absent, |unknown| unknown.problem(instead));
        let diagnostic =
            problem.map(|(reason, message)| Diagnostic::new(object.clone(), reason, "spec.parameters.name", message));
        diagnostics.extend(diagnostic);
        return global.clone();
    };
    let (settings, problems) = overlaid(global, &config_map.data, SetBy::Class);
    report(&problems, &key, diagnostics);
    settings
}

fn report(problems: &[SettingProblem], config_map: &ObjectKey, diagnostics: &mut Vec<Diagnostic>) {
    diagnostics.extend(problems.iter().map(|problem| {
        let object = ObjectRef::new(Kind::ConfigMap, config_map);
        let field = format!("data[{}]", problem.key);
        Diagnostic::new(object, DiagnosticReason::ClassSettingInvalid, field, problem.message.as_str())
    }));
}
