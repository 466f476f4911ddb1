// Write-through in Node: MySQL before the answer, a pool of 20 connections.
import { serve } from './front.mjs';
import { openPool, writeOne } from './one.mjs';

const pool = openPool();
serve((event) => writeOne(pool, event));
