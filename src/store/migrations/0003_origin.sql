-- Which database this is, whatever copies of it there are: what gateways share is of one database.
CREATE TABLE origin (id TEXT NOT NULL);
INSERT INTO origin (id) VALUES ('{origin}');

-- The last batch of sums that each gateway has added, so that one whose answer was lost is not
-- added twice.
CREATE TABLE usage_writers (
    writer TEXT   PRIMARY KEY NOT NULL,
    batch  BIGINT NOT NULL,
    at     BIGINT NOT NULL
);
