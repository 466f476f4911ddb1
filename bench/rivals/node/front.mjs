// The HTTP front of every rival in Node: the checks that moonwake makes of cookie and record,
// each cookie verified once and remembered, an answer once `accept` has returned.
import { createHmac, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';

const BODY_BYTES_MAX = 65_536;
const INT_MAX = 2_147_483_647;
const TIME_MS_MAX = 253_402_300_799_999;
const REQUIRED = { title: 500, source_name: 255 };
const TEXTS = { cover: 1000, year: 20, search_title: 500, remarks: 500, type: 50 };
const COUNTS = {
  total_episodes: INT_MAX, play_time: INT_MAX, total_time: INT_MAX, original_episodes: INT_MAX,
  save_time: TIME_MS_MAX, douban_id: Number.MAX_SAFE_INTEGER,
};
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/;

const isText = (value, longest) =>
  typeof value === 'string' && value.length > 0 && value.length <= longest && !CONTROL.test(value);
const isCount = (value, lowest, highest) =>
  Number.isInteger(value) && value >= lowest && value <= highest;
const isName = (value, longest) => isText(value, longest) && !value.endsWith(' ');

// The user of a login cookie, or null; as moonwake's shared/cookies.py.
function verified(header, password) {
  const found = /(?:^|;\s*)user_auth=([^;]*)/.exec(header ?? '');
  if (!found) return null;
  try {
    const { username, signature } = JSON.parse(decodeURIComponent(decodeURIComponent(found[1])));
    const right = createHmac('sha256', password).update(username).digest();
    const given = Buffer.from(signature, 'hex');
    return given.length === right.length && timingSafeEqual(given, right) ? username : null;
  } catch {
    return null;
  }
}

// The event in a request's body; throws for one that moonwake would refuse.
function eventOf(user, body) {
  const { key, record } = JSON.parse(body);
  const plus = key.indexOf('+');
  const source = key.slice(0, plus);
  const id = key.slice(plus + 1);
  if (plus < 1 || !isName(source, 100) || !isName(id, 255)) throw new Error('Invalid key format');
  const valid =
    Object.entries(REQUIRED).every(([name, longest]) => isText(record[name], longest)) &&
    isCount(record.index, 1, INT_MAX) &&
    Object.entries(TEXTS).every(
      ([name, longest]) =>
        record[name] == null || (typeof record[name] === 'string' && record[name].length <= longest),
    ) &&
    Object.entries(COUNTS).every(
      ([name, highest]) => record[name] == null || isCount(record[name], 0, highest),
    );
  if (!valid) throw new Error('Invalid record data');
  return { user, source, id, record, ms: Date.now() };
}

function answer(response, status, content) {
  response.writeHead(status, {
    'Content-Type': 'application/json',
    'Content-Length': Buffer.byteLength(content),
  });
  response.end(content);
}

// Listen on the port given as the last argument and hand every valid event to `accept`.
export function serve(accept) {
  const users = new Map();
  const respond = async (request, response, body) => {
    const cookie = request.headers.cookie;
    let user = users.get(cookie);
    if (user === undefined) {
      user = verified(cookie, process.env.PASSWORD);
      if (user !== null) users.set(cookie, user);
    }
    if (user === null) return answer(response, 401, '{"error":"Unauthorized"}');
    let event;
    try {
      event = eventOf(user, body);
    } catch (error) {
      return answer(response, 400, JSON.stringify({ error: String(error) }));
    }
    try {
      await accept(event);
    } catch (error) {
      console.error(error);
      return answer(response, 503, '{"error":"Unavailable"}');
    }
    return answer(response, 200, '{"success":true}');
  };
  const server = createServer((request, response) => {
    const parts = [];
    let size = 0;
    request.on('data', (part) => {
      size += part.length;
      if (size <= BODY_BYTES_MAX) parts.push(part);
    });
    request.on('end', () => {
      if (request.method !== 'POST') return answer(response, 404, '{"error":"Not found"}');
      if (size > BODY_BYTES_MAX) return answer(response, 413, '{"error":"Too large"}');
      const body = parts.length === 1 ? parts[0].toString() : Buffer.concat(parts).toString();
      return respond(request, response, body);
    });
  });
  server.listen(Number(process.argv.at(-1)), '127.0.0.1');
  process.on('SIGTERM', () => process.exit(0));
}
