//! How Postgres chooses among overloaded functions and operators: `func_get_detail`, `oper`, `func_select_candidate`.
//!
//! Everything is pure; the messages are Postgres's.

use cortex_shard_api::SqlType;

use super::{
    CastContext, ResolveError, can_cast, common_type,
    facts::{Kind, Operator, Procedure, facts},
    types::{ArgType, category, is_preferred},
};

/// A candidate with its argument list as long as the call's.
struct Candidate<'a, T> {
    item: &'a T,
    args: Vec<ArgType>,
    variadic: bool,
}

/// What was chosen: the item, the types its arguments must have, and the types its pseudo-types stand for.
pub(super) struct Choice<'a, T> {
    pub item: &'a T,
    pub arg_types: Vec<SqlType>,
    pub returns: SqlType,
}

/// Chooses among the functions of a name and some kinds.
pub(super) fn function(
    name: &str,
    kinds: &[Kind],
    args: &[SqlType],
) -> Result<Choice<'static, Procedure>, ResolveError> {
    let candidates = facts()
        .named(name)
        .filter(|procedure| kinds.contains(&procedure.kind))
        .flat_map(|procedure| expand(procedure, args))
        .collect::<Vec<_>>();
    let chosen = match exact(&candidates, args) {
        Some(position) => position,
        None => {
            let matching = matching(&candidates, args);
            match matching.len() {
                0 => return Err(ResolveError::Undefined(undefined_function(name, args))),
                1 => matching[0],
                _ => select(&candidates, matching, args).ok_or_else(|| {
                    ResolveError::Ambiguous(format!(
                        "function {name}({}) is not unique",
                        names(args)
                    ))
                })?,
            }
        }
    };
    let candidate = &candidates[chosen];
    choice(candidate.item, &candidate.args, candidate.item.returns, args)
}

/// `function f(integer, text) does not exist`
pub(super) fn undefined_function(name: &str, args: &[SqlType]) -> String {
    format!("function {name}({}) does not exist", names(args))
}

fn names(args: &[SqlType]) -> String {
    args.iter().map(|ty| ty.sql_name()).collect::<Vec<_>>().join(", ")
}

/// The forms of a procedure that take a call's arguments: as it is, with defaults left out, or with its variadic part repeated.
fn expand(procedure: &'static Procedure, args: &[SqlType]) -> Vec<Candidate<'static, Procedure>> {
    let (declared, n) = (procedure.args.len(), args.len());
    let mut forms = Vec::new();
    // The array itself in a variadic place is `VARIADIC array` to Postgres.
    let plain = procedure.variadic == 0
        || (procedure.variadic != ANY_OID && args.last().is_some_and(|ty| ty.element().is_some()));
    if plain && n <= declared && n + procedure.defaults >= declared {
        forms.push(Candidate {
            item: procedure,
            args: procedure.args[..n].to_vec(),
            variadic: false,
        });
    }
    if procedure.variadic != 0 && n >= declared {
        let fixed = declared - 1;
        let mut args = procedure.args[..fixed].to_vec();
        let element = procedure.args[fixed].variadic_element();
        args.resize(n, element);
        forms.push(Candidate { item: procedure, args, variadic: true });
    }
    forms
}

/// The pseudo-type "any".
const ANY_OID: u32 = 2276;

/// Chooses an operator; `left` is `None` for prefix operators.
pub(super) fn operator(
    name: &str,
    left: Option<SqlType>,
    right: SqlType,
) -> Result<Choice<'static, Operator>, ResolveError> {
    let facts = facts();
    // `!=` is `<>` for Postgres's lexer.
    let name = if name == "!=" { "<>" } else { name };
    let candidates = facts
        .operators_by_name
        .get(name)
        .into_iter()
        .flatten()
        .map(|position| &facts.operators[*position])
        .filter(|operator| operator.left.is_some() == left.is_some())
        .map(|operator| Candidate {
            item: operator,
            args: operator.left.into_iter().chain([operator.right]).collect(),
            variadic: false,
        })
        .collect::<Vec<_>>();
    let given = left.into_iter().chain([right]).collect::<Vec<_>>();
    let chosen =
        match exact(&candidates, &given).or_else(|| exact_with_unknown(&candidates, &given)) {
            Some(position) => position,
            None => {
                let matching = matching(&candidates, &given);
                match matching.len() {
                    0 => {
                        return Err(ResolveError::Undefined(format!(
                            "operator does not exist: {}",
                            spelled(name, left, right)
                        )));
                    }
                    1 => matching[0],
                    _ => select(&candidates, matching, &given).ok_or_else(|| {
                        ResolveError::Ambiguous(format!(
                            "operator is not unique: {}",
                            spelled(name, left, right)
                        ))
                    })?,
                }
            }
        };
    let candidate = &candidates[chosen];
    let procedure = &facts.procedures[facts.by_oid[&candidate.item.function]];
    choice(candidate.item, &candidate.args, procedure.returns, &given)
}

fn spelled(name: &str, left: Option<SqlType>, right: SqlType) -> String {
    match left {
        Some(left) => format!("{} {name} {}", left.sql_name(), right.sql_name()),
        None => format!("{name} {}", right.sql_name()),
    }
}

fn exact<T>(candidates: &[Candidate<'_, T>], args: &[SqlType]) -> Option<usize> {
    candidates.iter().position(|candidate| {
        candidate.args.len() == args.len()
            && candidate
                .args
                .iter()
                .zip(args)
                .all(|(declared, given)| *declared == ArgType::Type(*given))
    })
}

/// `binary_oper_exact`: an unknown operand is first taken to be of the other operand's type.
fn exact_with_unknown<T>(candidates: &[Candidate<'_, T>], args: &[SqlType]) -> Option<usize> {
    match args {
        [SqlType::Unknown, known] | [known, SqlType::Unknown] if *known != SqlType::Unknown => {
            exact(candidates, &[*known, *known])
        }
        _ => None,
    }
}

/// `func_match_argtypes`: candidates that the arguments can be coerced to implicitly.
fn matching<T>(candidates: &[Candidate<'_, T>], args: &[SqlType]) -> Vec<usize> {
    let found = (0..candidates.len())
        .filter(|position| accepts(&candidates[*position].args, args))
        .collect::<Vec<_>>();
    // Where a function matches with and without repeating its variadic part, the plain form wins.
    found
        .iter()
        .copied()
        .filter(|position| {
            let this = &candidates[*position];
            !this.variadic
                || !found.iter().any(|other| {
                    !candidates[*other].variadic && candidates[*other].args == this.args
                })
        })
        .collect()
}

/// `can_coerce_type` over a whole argument list, implicit context.
fn accepts(declared: &[ArgType], given: &[SqlType]) -> bool {
    declared.len() == given.len()
        && declared.iter().zip(given).all(|(declared, given)| match declared {
            ArgType::Type(ty) => can_cast(*given, *ty, CastContext::Implicit),
            _ => true,
        })
        && polymorphic_types(declared, given).is_ok()
}

/// `func_select_candidate`.
fn select<T>(
    candidates: &[Candidate<'_, T>],
    mut alive: Vec<usize>,
    given: &[SqlType],
) -> Option<usize> {
    let best = |alive: &[usize], score: &dyn Fn(ArgType, SqlType) -> bool| {
        let scores = alive
            .iter()
            .map(|position| {
                candidates[*position]
                    .args
                    .iter()
                    .zip(given)
                    .filter(|(_, given)| **given != SqlType::Unknown)
                    .filter(|(declared, given)| score(**declared, **given))
                    .count()
            })
            .collect::<Vec<_>>();
        let most = scores.iter().copied().max().unwrap_or(0);
        alive
            .iter()
            .zip(&scores)
            .filter(|(_, score)| **score == most)
            .map(|(position, _)| *position)
            .collect::<Vec<_>>()
    };
    let is_exact = |declared: ArgType, given: SqlType| declared == ArgType::Type(given);
    alive = best(&alive, &is_exact);
    if let [only] = alive[..] {
        return Some(only);
    }
    alive = best(&alive, &|declared, given| {
        is_exact(declared, given)
            || matches!(declared, ArgType::Type(ty) if is_preferred(ty) && category(ty) == category(given))
    });
    if let [only] = alive[..] {
        return Some(only);
    }
    let unknowns = (0..given.len()).filter(|i| given[*i] == SqlType::Unknown).collect::<Vec<_>>();
    if unknowns.is_empty() {
        return None;
    }
    if let Some(slots) = unknown_categories(candidates, &alive, &unknowns) {
        let kept = alive
            .iter()
            .copied()
            .filter(|position| {
                unknowns.iter().zip(&slots).all(|(slot, (wanted, has_preferred))| {
                    let declared = candidates[*position].args[*slot];
                    declared.category() == *wanted && (!has_preferred || declared.is_preferred())
                })
            })
            .collect::<Vec<_>>();
        if !kept.is_empty() {
            alive = kept;
        }
        if let [only] = alive[..] {
            return Some(only);
        }
    }
    // Last gasp: unknown arguments take the type that all known ones share.
    let mut known = given.iter().copied().filter(|ty| *ty != SqlType::Unknown);
    let shared = known.next()?;
    if known.any(|ty| ty != shared) {
        return None;
    }
    let assumed = vec![shared; given.len()];
    let mut fitting =
        alive.iter().filter(|position| accepts(&candidates[**position].args, &assumed));
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => Some(*only),
        _ => None,
    }
}

/// For each unknown argument the category to prefer and whether a candidate has that category's preferred type.
fn unknown_categories<T>(
    candidates: &[Candidate<'_, T>],
    alive: &[usize],
    unknowns: &[usize],
) -> Option<Vec<(char, bool)>> {
    let mut slots = Vec::new();
    for slot in unknowns {
        let mut chosen: Option<(char, bool)> = None;
        let mut conflict = false;
        for position in alive {
            let declared = candidates[*position].args[*slot];
            let (this, preferred) = (declared.category(), declared.is_preferred());
            match &mut chosen {
                None => chosen = Some((this, preferred)),
                Some((wanted, has_preferred)) if *wanted == this => *has_preferred |= preferred,
                Some(wanted) if this == 'S' => *wanted = ('S', preferred),
                Some(_) => conflict = true,
            }
        }
        let chosen = chosen?;
        if conflict && chosen.0 != 'S' {
            return None;
        }
        slots.push(chosen);
    }
    Some(slots)
}

/// The types that anyelement and anycompatible stand for in a call; `None` where only unknowns speak.
#[derive(Clone, Copy, Default)]
struct Polymorphic {
    element: Option<SqlType>,
    compatible: Option<SqlType>,
}

/// `check_generic_type_consistency` and `enforce_generic_type_consistency`.
fn polymorphic_types(declared: &[ArgType], given: &[SqlType]) -> Result<Polymorphic, String> {
    let mut types = Polymorphic::default();
    let mut compatible = Vec::new();
    let mut has_compatible = false;
    for (declared, given) in declared.iter().zip(given) {
        let is_array = matches!(declared, ArgType::AnyArray | ArgType::AnyCompatibleArray);
        has_compatible |= matches!(
            declared,
            ArgType::AnyCompatible | ArgType::AnyCompatibleArray | ArgType::AnyCompatibleNonArray
        );
        if !declared.is_polymorphic() || *given == SqlType::Unknown {
            continue;
        }
        let element = match (is_array, given.element()) {
            (true, Some(element)) => element,
            (true, None) => {
                return Err(format!(
                    "argument declared anyarray is not an array but type {}",
                    given.sql_name()
                ));
            }
            (false, Some(_))
                if matches!(declared, ArgType::AnyNonArray | ArgType::AnyCompatibleNonArray) =>
            {
                return Err(format!(
                    "type matched to anynonarray is an array type: {}",
                    given.sql_name()
                ));
            }
            (false, _) => *given,
        };
        match declared {
            ArgType::AnyElement | ArgType::AnyArray | ArgType::AnyNonArray => {
                if types.element.is_some_and(|known| known != element) {
                    return Err("arguments declared \"anyelement\" are not all alike".to_owned());
                }
                types.element = Some(element);
            }
            _ => compatible.push(element),
        }
    }
    if has_compatible && !compatible.is_empty() {
        let common = common_type(&compatible, "").map_err(|error| error.to_string())?;
        let fits = |ty: &SqlType| can_cast(*ty, common, CastContext::Implicit);
        if !compatible.iter().all(fits) {
            return Err(
                "arguments of anycompatible family cannot be cast to a common type".to_owned()
            );
        }
        types.compatible = Some(common);
    } else if has_compatible {
        types.compatible = Some(SqlType::Text);
    }
    Ok(types)
}

fn choice<'a, T>(
    item: &'a T,
    declared: &[ArgType],
    returns: ArgType,
    given: &[SqlType],
) -> Result<Choice<'a, T>, ResolveError> {
    let types = polymorphic_types(declared, given).map_err(ResolveError::TypeMismatch)?;
    let arg_types = declared
        .iter()
        .zip(given)
        .map(|(declared, given)| concrete(*declared, Some(*given), types))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Choice { item, arg_types, returns: concrete(returns, None, types)? })
}

/// The type a declared type stands for.
fn concrete(
    declared: ArgType,
    given: Option<SqlType>,
    types: Polymorphic,
) -> Result<SqlType, ResolveError> {
    let undetermined = || {
        ResolveError::TypeMismatch(
            "could not determine polymorphic type because input has type unknown".to_owned(),
        )
    };
    let array_of = |element: SqlType| {
        element.array().ok_or_else(|| {
            ResolveError::TypeMismatch(format!(
                "could not find array type for data type {}",
                element.sql_name()
            ))
        })
    };
    match declared {
        ArgType::Type(ty) => Ok(ty),
        // "any" takes what comes; a literal nobody gave a type stays text.
        ArgType::Any => Ok(match given {
            None | Some(SqlType::Unknown) => SqlType::Unknown,
            Some(ty) => ty,
        }),
        ArgType::AnyElement | ArgType::AnyNonArray => types.element.ok_or_else(undetermined),
        ArgType::AnyArray => array_of(types.element.ok_or_else(undetermined)?),
        ArgType::AnyCompatible | ArgType::AnyCompatibleNonArray => {
            types.compatible.ok_or_else(undetermined)
        }
        ArgType::AnyCompatibleArray => array_of(types.compatible.ok_or_else(undetermined)?),
    }
}
