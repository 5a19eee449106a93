CREATE TABLE dept (id int4, name text, budget numeric(10,2));
INSERT INTO dept VALUES (1, 'dev', 1000.50), (2, 'ops', 500.00), (3, 'hr', NULL), (4, 'Empty', 0);
CREATE TABLE emp (id int4, name varchar(20), dept_id int4, salary numeric, hired date, manager int8, active bool, note char(5));
INSERT INTO emp VALUES
 (1, 'Ann', 1, 100.50, '2020-01-15', NULL, true, 'a'),
 (2, 'Bob', 1, 80, '2021-03-01', 1, true, 'b '),
 (3, 'Cid', 2, 80.00, '2021-03-01', 1, false, NULL),
 (4, 'Dan', 2, 60.25, '2022-07-30', 3, true, 'a'),
 (5, 'eve', NULL, NULL, NULL, 3, NULL, ''),
 (6, 'Fay', 3, 120.000, '2019-12-31', 1, false, 'abcde');
CREATE TABLE num (a int2, b int4, c int8, d float4, e float8, f numeric);
INSERT INTO num VALUES (1, 10, 100, 1.5, 2.5, 3.10), (2, 20, 200, -0.0, 0.0, 3.1), (-3, -30, -300, 'NaN', 'Infinity', -7), (NULL, NULL, NULL, NULL, NULL, NULL), (2, 20, 9000000000, 0.0, -0.0, 3.100);
CREATE TABLE ev (id int4, ts timestamp, tz timestamptz, iv interval, u uuid, j jsonb, tags text[], ns int4[], raw bytea, js json);
INSERT INTO ev VALUES
 (1, '2024-01-01 10:00:00', '2024-01-01 10:00:00+00', '1 day', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"b": 1, "a": [1,2]}', '{x,y}', '{1,2,3}', '\x01ff', '{"k": 1}'),
 (2, '2024-01-02 11:30:00', '2024-01-02 11:30:00+02', '24 hours', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12', '{"a": [1, 2], "b": 1}', '{}', '{3,NULL}', '\x', '[]'),
 (3, NULL, NULL, '1 mon', NULL, 'null', NULL, NULL, NULL, NULL),
 (4, '2024-02-01 00:00:00.123456', '2023-12-31 23:59:59+00', '-2 hours', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '"s"', '{y,z}', '{}', '\x01ff', '1');
