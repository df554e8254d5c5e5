/** What the documentation names is there. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, it } from 'node:test';

const ROOT = resolve(import.meta.dirname, '..');

const pages = ['README.md', 'CONTRIBUTING.md', ...readdirSync(join(ROOT, 'docs')).map((name) => `docs/${name}`)].filter(
  (name) => name.endsWith('.md'),
);

describe('files of the project', () => {
  it('exist when documentation names them', () => {
    const missing = pages.flatMap((page) => {
      const named = readFileSync(join(ROOT, page), 'utf8').matchAll(
        /`((?:src|fcqemu|test|scripts|bench|bin)\/[\w./-]*)`/g,
      );
      return [...named].flatMap(([, path = '']) => (existsSync(join(ROOT, path)) ? [] : [`${page}: ${path}`]));
    });
    assert.deepEqual(missing, []);
  });
});
