// One event, one transaction, in two round trips: as bench/rivals/apps/one.py, with mysql2.
import mysql from 'mysql2/promise';

const PLAY_GAP_MS = 1_800_000;
const SPEED_MAX = 3;
const DEADLOCKS = new Set(['ER_LOCK_DEADLOCK', 'ER_LOCK_WAIT_TIMEOUT']);
const LOOK =
  'START TRANSACTION;' +
  'INSERT INTO content_viewers (username, source, content_id, first_seen_ms) VALUES (?,?,?,?)' +
  ' ON DUPLICATE KEY UPDATE first_seen_ms = first_seen_ms;' +
  'SELECT episode_index, play_time, event_ms, original_episodes FROM play_records' +
  ' WHERE username = ? AND source = ? AND content_id = ?';
const COLUMNS = [
  'username', 'source', 'content_id', 'title', 'source_name', 'cover', 'year', 'episode_index',
  'total_episodes', 'play_time', 'total_time', 'search_title', 'remarks', 'douban_id',
  'content_type', 'save_time', 'original_episodes', 'event_ms',
];
const RECORD =
  `INSERT INTO play_records (${COLUMNS}) VALUES (${COLUMNS.map(() => '?')})` +
  ` ON DUPLICATE KEY UPDATE ${COLUMNS.slice(3).map((name) => `${name}=VALUES(${name})`)};`;
const DAY =
  'INSERT INTO user_watch_daily (stat_date, username, plays, watch_time) VALUES (?,?,?,?)' +
  ' ON DUPLICATE KEY UPDATE plays = plays + VALUES(plays),' +
  ' watch_time = watch_time + VALUES(watch_time);';
const CONTENT =
  'INSERT INTO content_stats (source, content_id, title, source_name, cover, year, play_count,' +
  ' total_watch_time, unique_users, last_played_at) VALUES (?,?,?,?,?,?,?,?,?,?)' +
  ' ON DUPLICATE KEY UPDATE title = VALUES(title), source_name = VALUES(source_name),' +
  ' cover = VALUES(cover), year = VALUES(year), play_count = play_count + VALUES(play_count),' +
  ' total_watch_time = total_watch_time + VALUES(total_watch_time),' +
  ' unique_users = unique_users + VALUES(unique_users), last_played_at = VALUES(last_played_at);';
const AUDIT = 'INSERT INTO audit (nonce, ms) VALUES (?,?);';
const audits = process.env.RIVAL_AUDIT !== undefined;

const dateTime = (ms) => new Date(ms).toISOString().slice(0, 23).replace('T', ' ');
// Asia/Shanghai has been at +8 since 1991.
const dayOf = (ms) => new Date(ms + 28_800_000).toISOString().slice(0, 10);

export function openPool() {
  const { MYSQL_HOST, MYSQL_PORT, MYSQL_USER, MYSQL_PASSWORD, MYSQL_DATABASE } = process.env;
  const pool = mysql.createPool({
    host: MYSQL_HOST, port: Number(MYSQL_PORT), user: MYSQL_USER, password: MYSQL_PASSWORD,
    database: MYSQL_DATABASE, connectionLimit: 20, multipleStatements: true, charset: 'utf8mb4',
    // An insert that found its row there must not look like one that made it.
    flags: ['-FOUND_ROWS'],
  });
  pool.pool.on('connection', (connection) =>
    connection.query(
      "SET time_zone='+00:00', sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'" +
        " /*!80000 , transaction_isolation='READ-COMMITTED' */" +
        " /*M! , tx_isolation='READ-COMMITTED' */",
    ),
  );
  return pool;
}

// [plays, watched seconds] that `record` counts over the stored row.
function counts(stored, record, ms) {
  const gapMs = ms - (stored?.event_ms ?? 0);
  if (!stored || record.index !== stored.episode_index || gapMs > PLAY_GAP_MS) return [1, 0];
  const gainS = (record.play_time ?? 0) - stored.play_time;
  if (gainS <= 0) return [0, 0];
  return [0, Math.min(gainS, Math.floor((SPEED_MAX * Math.max(gapMs, 0)) / 1000))];
}

function changes({ user, source, id, record, ms }, stored, isNew) {
  if (stored && ms < stored.event_ms) return ['', []]; // a late repetition
  const [plays, watchS] = counts(stored, record, ms);
  const total = record.total_episodes ?? 0;
  const original = record.original_episodes ?? stored?.original_episodes ?? total;
  const values = [
    user, source, id, record.title, record.source_name, record.cover ?? null, record.year ?? null,
    record.index, total, record.play_time ?? 0, record.total_time ?? 0,
    record.search_title ?? null, record.remarks ?? null, record.douban_id ?? null,
    record.type ?? null, record.save_time == null ? null : dateTime(record.save_time), original, ms,
  ];
  let text = RECORD;
  if (plays || watchS) {
    text += DAY;
    values.push(dayOf(ms), user, plays, watchS);
  }
  values.push(
    source, id, record.title, record.source_name, record.cover ?? null, record.year ?? null,
    plays, watchS, isNew ? 1 : 0, dateTime(ms),
  );
  return [text + CONTENT, values];
}

// Write one event; a deadlock's victim tries again.
export async function writeOne(pool, event) {
  for (;;) {
    const connection = await pool.getConnection();
    try {
      const key = [event.user, event.source, event.id];
      const [[, viewer, [stored]]] = await connection.query(LOOK, [...key, event.ms, ...key]);
      let [text, values] = changes(event, stored, viewer.affectedRows === 1);
      if (audits) [text, values] = [text + AUDIT, [...values, event.record.save_time, event.ms]];
      await connection.query(`${text}COMMIT`, values);
      return;
    } catch (error) {
      await connection.rollback();
      if (!DEADLOCKS.has(error.code)) throw error;
    } finally {
      connection.release();
    }
  }
}
