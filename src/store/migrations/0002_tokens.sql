-- 1: an administrator gave this user of another issuer its tier, which then holds over what the
-- issuer's tokens say.
ALTER TABLE users ADD COLUMN tier_given BIGINT NOT NULL DEFAULT 0 CHECK (tier_given IN (0, 1));
