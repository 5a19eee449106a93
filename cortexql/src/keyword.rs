//! The words that mean something, in any case. None is reserved everywhere: the place decides whether a word is a
//! keyword or a name; `is_reserved_in_conditions` names those that cannot be a field's name without a path.

macro_rules! keywords {
    ($($name:ident $text:literal)*) => {
        /// A word of the language.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Keyword { $($name),* }

        impl Keyword {
            pub const ALL: &[Keyword] = &[$(Keyword::$name),*];

            /// In upper case, as it is printed.
            pub fn as_str(self) -> &'static str {
                match self { $(Keyword::$name => $text),* }
            }
        }
    };
}

keywords! {
    Absent "ABSENT" Aggregate "AGGREGATE" All "ALL" Analyze "ANALYZE" And "AND" As "AS" Asc "ASC" At "AT" Avg "AVG"
    Begin "BEGIN" Between "BETWEEN" By "BY" Bytes "BYTES"
    Collections "COLLECTIONS" Commit "COMMIT" Cosine "COSINE" Count "COUNT" Create "CREATE" Cursor "CURSOR"
    Delete "DELETE" Desc "DESC" Describe "DESCRIBE" Dim "DIM" Dot "DOT" Drop "DROP"
    Exists "EXISTS" Expire "EXPIRE" Explain "EXPLAIN"
    False "FALSE" Filter "FILTER" Flat "FLAT"
    Get "GET" Group "GROUP"
    Hash "HASH" Hnsw "HNSW"
    If "IF" In "IN" Incr "INCR" Index "INDEX" Indexes "INDEXES" Int8 "INT8" Is "IS"
    Json "JSON"
    Keyspace "KEYSPACE" Keyspaces "KEYSPACES"
    L2 "L2" Like "LIKE" Limit "LIMIT"
    Max "MAX" Meta "META" Metric "METRIC" Mget "MGET" Min "MIN"
    None "NONE" Not "NOT" Null "NULL"
    Offset "OFFSET" On "ON" Or "OR"
    Prefix "PREFIX" Project "PROJECT" Put "PUT"
    Quantize "QUANTIZE"
    Range "RANGE" Reverse "REVERSE" Rollback "ROLLBACK"
    Scan "SCAN" Schema "SCHEMA" Search "SEARCH" Shard "SHARD" Shards "SHARDS" Show "SHOW" Sort "SORT" Split "SPLIT"
    Stats "STATS" Sum "SUM"
    Text "TEXT" Topk "TOPK" Transaction "TRANSACTION" True "TRUE" Ttl "TTL"
    Unique "UNIQUE" Use "USE"
    Value "VALUE" Vcreate "VCREATE" Vdelete "VDELETE" Vector "VECTOR" Vget "VGET" Vput "VPUT" Vsearch "VSEARCH"
    Where "WHERE" With "WITH" Work "WORK"
}

impl Keyword {
    pub(crate) fn find(word: &str) -> Option<Keyword> {
        Keyword::ALL.iter().copied().find(|keyword| keyword.is(word))
    }

    pub(crate) fn is(self, word: &str) -> bool {
        self.as_str().eq_ignore_ascii_case(word)
    }

    /// Whether a field of this name would be read as something else in a condition or a list of fields.
    pub(crate) fn is_reserved_in_conditions(self) -> bool {
        matches!(
            self,
            Keyword::And
                | Keyword::Or
                | Keyword::Not
                | Keyword::In
                | Keyword::Like
                | Keyword::Between
                | Keyword::Is
                | Keyword::Null
                | Keyword::Exists
                | Keyword::Json
                | Keyword::True
                | Keyword::False
                | Keyword::As
                | Keyword::Asc
                | Keyword::Desc
                | Keyword::Group
        )
    }
}
