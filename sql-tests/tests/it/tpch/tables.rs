//! The eight tables: what they are, where they lie, and COPY of their rows into both databases.

use std::{fmt::Display, io::Write};

use anyhow::{Context, Result, ensure};
use cortex_sql_tests::Client;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator,
    PartSuppGenerator, RegionGenerator, SupplierGenerator,
};

struct Table {
    name: &'static str,
    columns: &'static str,
    /// Storage parameters in CortexDB.
    placement: &'static str,
}

const TABLES: [Table; 8] = [
    Table {
        name: "region",
        columns: "r_regionkey int PRIMARY KEY, r_name char(25) NOT NULL, r_comment varchar(152)",
        placement: "shard_by = 'reference'",
    },
    Table {
        name: "nation",
        columns: "n_nationkey int PRIMARY KEY, n_name char(25) NOT NULL, n_regionkey int NOT NULL, \
            n_comment varchar(152)",
        placement: "shard_by = 'reference'",
    },
    Table {
        name: "part",
        columns: "p_partkey int PRIMARY KEY, p_name varchar(55) NOT NULL, p_mfgr char(25) NOT NULL, \
            p_brand char(10) NOT NULL, p_type varchar(25) NOT NULL, p_size int NOT NULL, \
            p_container char(10) NOT NULL, p_retailprice decimal(15,2) NOT NULL, \
            p_comment varchar(23) NOT NULL",
        placement: "shard_by = 'hash(p_partkey)'",
    },
    Table {
        name: "supplier",
        columns: "s_suppkey int PRIMARY KEY, s_name char(25) NOT NULL, s_address varchar(40) NOT NULL, \
            s_nationkey int NOT NULL, s_phone char(15) NOT NULL, s_acctbal decimal(15,2) NOT NULL, \
            s_comment varchar(101) NOT NULL",
        placement: "shard_by = 'hash(s_suppkey)', colocate_with = 'none'",
    },
    Table {
        name: "partsupp",
        columns: "ps_partkey int NOT NULL, ps_suppkey int NOT NULL, ps_availqty int NOT NULL, \
            ps_supplycost decimal(15,2) NOT NULL, ps_comment varchar(199) NOT NULL, \
            PRIMARY KEY (ps_partkey, ps_suppkey)",
        placement: "shard_by = 'hash(ps_partkey)', colocate_with = 'part'",
    },
    // In one group with parts, although no join of theirs is by the shard key: the planner has to see that.
    Table {
        name: "customer",
        columns: "c_custkey int PRIMARY KEY, c_name varchar(25) NOT NULL, c_address varchar(40) NOT NULL, \
            c_nationkey int NOT NULL, c_phone char(15) NOT NULL, c_acctbal decimal(15,2) NOT NULL, \
            c_mktsegment char(10) NOT NULL, c_comment varchar(117) NOT NULL",
        placement: "shard_by = 'hash(c_custkey)'",
    },
    Table {
        name: "orders",
        columns: "o_orderkey int PRIMARY KEY, o_custkey int NOT NULL, o_orderstatus char(1) NOT NULL, \
            o_totalprice decimal(15,2) NOT NULL, o_orderdate date NOT NULL, \
            o_orderpriority char(15) NOT NULL, o_clerk char(15) NOT NULL, o_shippriority int NOT NULL, \
            o_comment varchar(79) NOT NULL",
        placement: "shard_by = 'hash(o_orderkey)', colocate_with = 'none'",
    },
    Table {
        name: "lineitem",
        columns: "l_orderkey int NOT NULL, l_partkey int NOT NULL, l_suppkey int NOT NULL, \
            l_linenumber int NOT NULL, l_quantity decimal(15,2) NOT NULL, \
            l_extendedprice decimal(15,2) NOT NULL, l_discount decimal(15,2) NOT NULL, \
            l_tax decimal(15,2) NOT NULL, l_returnflag char(1) NOT NULL, l_linestatus char(1) NOT NULL, \
            l_shipdate date NOT NULL, l_commitdate date NOT NULL, l_receiptdate date NOT NULL, \
            l_shipinstruct char(25) NOT NULL, l_shipmode char(10) NOT NULL, \
            l_comment varchar(44) NOT NULL, PRIMARY KEY (l_orderkey, l_linenumber)",
        placement: "shard_by = 'hash(l_orderkey)', colocate_with = 'orders'",
    },
];

/// For PostgreSQL's sake: without it, its answers to correlated queries take minutes.
const POSTGRES_INDEX: &str = "CREATE INDEX ON lineitem (l_partkey, l_suppkey)";

pub fn load(postgres: &mut Client, cortex: &mut Client, scale: f64) -> Result<()> {
    for Table { name, columns, placement } in &TABLES {
        postgres.simple(&format!("CREATE TABLE {name} ({columns})"))?;
        cortex.simple(&format!("CREATE TABLE {name} ({columns}) WITH ({placement})"))?;
        let (data, n_rows) = rows(name, scale)?;
        let copy = format!("COPY {name} FROM STDIN (DELIMITER '|')");
        for client in [&mut *postgres, &mut *cortex] {
            let reply = client.copy_in(&copy, data.as_slice()).with_context(|| copy.clone())?;
            ensure!(reply.n_rows() == n_rows, "{name}: {} of {n_rows} rows", reply.n_rows());
        }
    }
    postgres.simple(POSTGRES_INDEX)?;
    postgres.simple("ANALYZE")?;
    Ok(())
}

fn rows(table: &str, scale: f64) -> Result<(Vec<u8>, u64)> {
    match table {
        "region" => lines(RegionGenerator::new(scale, 1, 1).iter()),
        "nation" => lines(NationGenerator::new(scale, 1, 1).iter()),
        "part" => lines(PartGenerator::new(scale, 1, 1).iter()),
        "supplier" => lines(SupplierGenerator::new(scale, 1, 1).iter()),
        "partsupp" => lines(PartSuppGenerator::new(scale, 1, 1).iter()),
        "customer" => lines(CustomerGenerator::new(scale, 1, 1).iter()),
        "orders" => lines(OrderGenerator::new(scale, 1, 1).iter()),
        "lineitem" => lines(LineItemGenerator::new(scale, 1, 1).iter()),
        _ => anyhow::bail!("there is no generator of {table}"),
    }
}

/// The generator ends each field with a bar; COPY separates them by it.
fn lines(rows: impl Iterator<Item = impl Display>) -> Result<(Vec<u8>, u64)> {
    let (mut data, mut n_rows) = (Vec::new(), 0);
    for row in rows {
        write!(data, "{row}")?;
        data.pop();
        data.push(b'\n');
        n_rows += 1;
    }
    Ok((data, n_rows))
}
