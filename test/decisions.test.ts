/** Records of decisions: each has a number of its own, a date and a status, and its line in the index. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, it } from 'node:test';

const DIRECTORY = resolve(import.meta.dirname, '../docs/decisions');

const HEAD =
  /^# (\d+)\. (.+)\n\n\*\*Date:\*\* (\d{4}-\d{2}-\d{2}) \*\*Status:\*\* (accepted|.+ by \[decision \d+\]\(\S+\))\n\n/;

const records = readdirSync(DIRECTORY)
  .filter((name) => name !== 'README.md')
  .sort();

describe('records of decisions', () => {
  it('begin with their number, title, date and status', () => {
    const wrong = records.filter((name) => {
      const number = HEAD.exec(readFileSync(join(DIRECTORY, name), 'utf8'))?.[1];
      return number === undefined || !name.startsWith(`${number.padStart(4, '0')}-`);
    });
    assert.deepEqual(wrong, [], 'must begin: # 7. Title, then **Date:** 2026-01-31 **Status:** accepted');
  });

  it('have numbers that are given once', () => {
    const numbers = records.map((name) => name.slice(0, 4));
    assert.deepEqual(
      numbers.filter((number, index) => numbers.indexOf(number) !== index),
      [],
    );
  });

  it('are all in the index, in their order, as they are', () => {
    const rows = records.map((name) => {
      const [, number, title, date, status] = HEAD.exec(readFileSync(join(DIRECTORY, name), 'utf8')) ?? [];
      return `| ${number} | [${title}](${name}) | ${date} | ${status} |`;
    });
    const index = readFileSync(join(DIRECTORY, 'README.md'), 'utf8');
    assert.deepEqual(index.match(/^\| \d.*$/gm), rows);
  });

  it('link to records that are there', () => {
    const links = [...records, 'README.md'].flatMap((name) =>
      [...readFileSync(join(DIRECTORY, name), 'utf8').matchAll(/\]\((\d{4}-[^)#]+)\)/g)].map(([, to = '']) => to),
    );
    assert.deepEqual(
      links.filter((to) => !records.includes(to)),
      [],
    );
  });
});
