// BullMQ, one job per event: `node bullmq.mjs work` or `node bullmq.mjs PORT`.
//
// Two workers of 20 jobs at once, each with as many connections; done jobs are not kept.
// A killed worker's jobs are seen to be stalled after 5 s in place of 30. The free
// edition has no batches.
import { Queue, Worker } from 'bullmq';

import { serve } from './front.mjs';
import { openPool, writeOne } from './one.mjs';

const STALLED_MS = 5_000;
const address = new URL(process.env.REDIS_URL);
const connection = {
  host: address.hostname,
  port: Number(address.port),
  db: Number(address.pathname.slice(1) || 0),
  maxRetriesPerRequest: null,
};

if (process.argv.at(-1) === 'work') {
  const pool = openPool();
  const worker = new Worker('heartbeats', (job) => writeOne(pool, job.data), {
    connection,
    concurrency: 20,
    lockDuration: STALLED_MS,
    stalledInterval: STALLED_MS,
    maxStalledCount: 10,
  });
  worker.on('error', (error) => console.error(error));
} else {
  const queue = new Queue('heartbeats', {
    connection,
    defaultJobOptions: { removeOnComplete: true, attempts: 5 },
  });
  serve((event) => queue.add('save', event));
}
