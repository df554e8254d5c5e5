/** Messages that others can cause at will: ten at once, two a second, and how many were left out. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { createLogLimit } from '../../fcqemu/log-limit.ts';

it('writes ten messages at once, one in half a second from then on, and how many it left out', () => {
  let now = 1000;
  const lines: string[] = [];
  let counted = 0;
  const limited = createLogLimit(
    { warn: (message) => lines.push(message) },
    { count: (group, counter) => void (group === 'logger' && counter === 'rate_limited_log_count' && counted++) },
    () => now,
  );
  const write = (times: number) => {
    for (let i = 0; i < times; i++) limited(() => lines.push('x'));
  };
  write(13);
  assert.deepEqual([lines.length, counted], [10, 3]);
  now += 499;
  write(1);
  assert.deepEqual([lines.length, counted], [10, 4]);
  now += 1;
  write(2);
  assert.deepEqual(lines.slice(10), ['4 messages were suppressed due to rate limiting', 'x']);
  now += 5000;
  write(11);
  assert.deepEqual(lines.slice(12), ['1 messages were suppressed due to rate limiting', ...Array(10).fill('x')]);
});
