import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { commandPages, pageAliases } from '../../scripts/package/manual-commands.ts';
import { formatPages } from '../../scripts/package/manual-files.ts';
import { programPages } from '../../scripts/package/manual-programs.ts';
import { type Page, renderPage } from '../../scripts/package/mdoc.ts';
import { namesOf } from '../../src/cli/entry.ts';
import { REGISTRY } from '../../src/cli/registry.ts';
import { listSettings } from '../../src/config/settings.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { tempDir } from '../support/temp-dir.ts';

const DAY = new Date('2026-11-29T12:00:00Z');

let pages: Page[] = [];
before(async () => {
  pages = [...(await commandPages()), ...programPages(), ...formatPages()];
});

describe('the manual', () => {
  it('has a page for every name of every command, and for the programs and formats', () => {
    const names = new Set([...pages.map(({ name }) => name), ...pageAliases().map(({ alias }) => alias)]);
    const missing = REGISTRY.flatMap(namesOf).filter((name) => !names.has(`banger-${name.replaceAll(' ', '-')}`));
    assert.deepEqual(missing, []);
    const others = ['banger', 'fcqemu', 'fcqemu-vsock', 'bangernet', 'banger.toml', 'bundle.json', 'recipe'];
    assert.deepEqual(
      others.filter((name) => !names.has(name)),
      [],
    );
    assert.equal(new Set(pages.map(({ name }) => name)).size, pages.length, 'no page is there twice');
  });

  it('refers to pages that exist', () => {
    const there = new Set(pages.map(({ name, section }) => `${name} ${section}`));
    const dangling = pages.flatMap(({ name, seeAlso }) =>
      seeAlso.filter((other) => !there.has(other)).map((other) => `${name}: ${other}`),
    );
    assert.deepEqual(dangling, []);
  });

  it('says of every setting what it takes and what it is without configuration', () => {
    const text = renderPage(pages.find(({ name }) => name === 'banger.toml')!, DAY);
    for (const { key } of listSettings()) assert.match(text, new RegExp(`^\\.It Li "\\\\&${key}"$`, 'm'), key);
    assert.doesNotMatch(text, /undefined|NaN/);
  });

  it('is accepted by mandoc without a remark', { skip: lacking('mandoc') }, async (t) => {
    const dir = await tempDir(t);
    const files = pages.map(({ name, section }) => join(dir, `${name}.${section}`));
    await Promise.all(files.map((file, index) => writeFile(file, renderPage(pages[index]!, DAY))));
    // pages that are named are looked for there, one by one
    const env = { ...process.env, MANPATH: dir };
    const { stdout } = spawnSync('mandoc', ['-Tlint', '-Wstyle', ...files], { encoding: 'utf8', env });
    const remarks = stdout.split('\n').filter((line) => line !== '' && !line.includes('referenced manual not found'));
    assert.deepEqual(remarks, []);
  });

  it('is shown by man without a warning, as it is meant', { skip: lacking('man', 'groff') }, async (t) => {
    const dir = await tempDir(t);
    const env = { ...process.env, LC_ALL: 'C.UTF-8', MANWIDTH: '80' };
    for (const name of ['banger', 'banger-run', 'banger-vm-list', 'banger.toml', 'fcqemu']) {
      const page = pages.find((each) => each.name === name)!;
      const file = join(dir, `${name}.${page.section}`);
      await writeFile(file, renderPage(page, DAY));
      const { stdout, stderr, status } = spawnSync('man', ['--warnings', '-E', 'UTF-8', '-l', file], {
        env,
        encoding: 'utf8',
      });
      assert.deepEqual([status, stderr], [0, ''], name);
      if (name === 'banger-vm-list') assert.match(stdout, /banger vm list \[options\]\n +banger ls \[options\]/);
    }
  });
});

describe('a page', () => {
  const sections: Page['sections'] = [
    [
      'DESCRIPTION',
      [
        { text: "It's `--here` or 100 \\ more. Next sentence." },
        { literal: ['.dot first', "'quote first"] },
        { terms: [{ term: '--no-"x"', text: 'Nothing' }] },
      ],
    ],
  ];
  const text = renderPage({ name: 'x', section: 1, about: 'A thing', sections, seeAlso: ['b 5', 'a 1', 'x 1'] }, DAY);

  it('keeps what means something to roff from meaning it', () => {
    assert.match(text, /^It\\\(aqs \\fB\\-\\-here\\fP or 100 \\e more\.\nNext sentence\.$/m);
    assert.match(text, /^\\&\.dot first\n\\&\\\(aqquote first$/m);
    assert.match(text, /^\.It Li "\\&\\-\\-no\\-""x"""$/m);
  });

  it('has the day of its sources, and others in order but not itself', () => {
    assert.match(text, /^\.Dd November 29, 2026\n\.Dt X 1\n\.Os banger\n\.Sh NAME\n\.Nm x\n\.Nd a thing\n/);
    assert.match(text, /\.Sh SEE ALSO\n\.Xr a 1 ,\n\.Xr b 5\n$/);
  });
});
