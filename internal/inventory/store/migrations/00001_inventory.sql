-- One text for SQLite and PostgreSQL. Times are microseconds since 1970, UTC;
-- gone_at and until_at of what still is are the greatest bigint.

-- +goose Up
CREATE TABLE nodes (
	node    TEXT PRIMARY KEY,
	seen_at BIGINT NOT NULL -- of the last report
);

-- What was reported last of each kind and scope. An unchanged report changes seen_at only.
CREATE TABLE sections (
	node     TEXT NOT NULL,
	kind     TEXT NOT NULL,
	scope    TEXT NOT NULL,
	digest   TEXT NOT NULL,
	first_at BIGINT NOT NULL, -- of the first report
	seen_at  BIGINT NOT NULL, -- of the last
	PRIMARY KEY (node, kind, scope)
);
CREATE INDEX sections_by_kind ON sections (kind, node);

-- Facts are kept once, however many nodes have them; a condition is asked once per fact.
CREATE TABLE facts (
	id    BYTEA PRIMARY KEY, -- digest of the rest
	kind  TEXT NOT NULL,
	key   TEXT NOT NULL,
	value TEXT NOT NULL -- JSON
);
CREATE INDEX facts_by_key ON facts (kind, key, id);

CREATE TABLE items (
	node       TEXT NOT NULL,
	fact       BYTEA NOT NULL REFERENCES facts (id),
	scope      TEXT NOT NULL,
	first_seen BIGINT NOT NULL, -- the first report that has it
	gone_at    BIGINT NOT NULL, -- the first report without it
	PRIMARY KEY (node, fact, scope, first_seen)
);
CREATE INDEX items_by_fact ON items (fact, gone_at, node);

CREATE TABLE compliance (
	node              TEXT NOT NULL,
	baseline          TEXT NOT NULL,
	status            TEXT NOT NULL,
	since             BIGINT NOT NULL,
	missing_critical  BIGINT NOT NULL,
	missing_important BIGINT NOT NULL,
	missing_moderate  BIGINT NOT NULL,
	missing_low       BIGINT NOT NULL,
	missing_other     BIGINT NOT NULL,
	reboot_pending    BOOLEAN NOT NULL,
	at                BIGINT NOT NULL,
	PRIMARY KEY (node, baseline)
);

-- The statuses that a node had, the present one too.
CREATE TABLE compliance_history (
	node     TEXT NOT NULL,
	baseline TEXT NOT NULL,
	status   TEXT NOT NULL,
	since    BIGINT NOT NULL,
	until_at BIGINT NOT NULL,
	PRIMARY KEY (node, baseline, since)
);
CREATE INDEX compliance_history_by_end ON compliance_history (until_at);

-- +goose Down
DROP TABLE compliance_history;
DROP TABLE compliance;
DROP TABLE items;
DROP TABLE facts;
DROP TABLE sections;
DROP TABLE nodes;
