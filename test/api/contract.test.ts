import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { describe, it } from 'node:test';
import { contract, type Route } from '../../src/api/contract.ts';
import { Event } from '../../src/api/event.ts';

const page = (name: string) => readFile(new URL(`../../docs/${name}`, import.meta.url), 'utf8');

describe('the routes', () => {
  it('are all in docs/api.md, in this order, with how they answer and what they are for', async () => {
    const documentation = await page('api.md');
    const expected = Object.values<Route>(contract).map(({ method, url, streams, status, response, summary }) => {
      const path = url.replace(/:(\w+)/g, (_, name: string) => name.toUpperCase());
      const answer = streams ? 'stream ' : status === 202 && response ? 'operation ' : '';
      return `| \`${method} ${path}\` | ${answer}| ${summary} |`;
    });
    const rows = documentation.match(/^\| `(GET|POST|DELETE) .*$/gm) ?? [];
    assert.deepEqual(rows.slice(0, expected.length), expected);
  });
});

describe('the types of events', () => {
  it('are all in docs/statistics.md with their members', async () => {
    const documentation = await page('statistics.md');
    for (const { shape } of Event.options) {
      const members = Object.keys(shape).filter((name) => !['seq', 'at', 'type'].includes(name));
      const row = `| \`${shape.type.value}\` | ${members.map((name) => `\`${name}\``).join(', ')} |`;
      assert.ok(documentation.includes(row), row);
    }
  });
});
