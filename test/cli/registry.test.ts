import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { build } from 'esbuild';
import { NOUNS, namesOf } from '../../src/cli/entry.ts';
import { parseCommand } from '../../src/cli/parse.ts';
import { findEntry, REGISTRY } from '../../src/cli/registry.ts';
import { cli } from './cli.ts';

describe('the command table', () => {
  it('has no name twice', () => {
    const names = REGISTRY.flatMap(namesOf);
    assert.deepEqual(
      names.filter((name, index) => names.indexOf(name) !== index),
      [],
    );
  });

  it('says what every noun is about', () => {
    const nouns = REGISTRY.flatMap(namesOf).flatMap((name) => (name.includes(' ') ? [name.split(' ')[0]] : []));
    assert.deepEqual(new Set(nouns), new Set(Object.keys(NOUNS)));
  });

  it('finds a command by each of its names', () => {
    for (const entry of REGISTRY) {
      for (const name of namesOf(entry)) {
        assert.equal(findEntry([...name.split(' '), 'more'])?.entry, entry, name);
      }
    }
  });

  it('has examples that the commands understand', async () => {
    for (const entry of REGISTRY) {
      const { default: command } = await entry.load();
      assert.ok(command.examples.length > 0, entry.path);
      for (const example of command.examples) {
        // what a shell would do with it: quotes away, pipes and redirections not ours
        const words =
          (example.split(/ [|<>] /)[0] ?? '').match(/'[^']*'|\S+/g)?.map((word) => word.replaceAll("'", '')) ?? [];
        const found = findEntry(words);
        assert.equal(found?.entry, entry, example);
        const parsed = parseCommand(command, found.rest, {
          typed: found.typed,
          summary: entry.summary,
          otherNames: [],
          output: process.stdout,
        });
        assert.ok('input' in parsed, example);
      }
    }
  });

  it('pins every help text', async (t) => {
    const texts = [(await cli('--help', {})).stdout];
    for (const noun of Object.keys(NOUNS)) texts.push((await cli(`${noun} --help`, {})).stdout);
    for (const { path } of REGISTRY) texts.push((await cli(`${path} --help`, {})).stdout);
    t.assert.snapshot(texts.join(`\n${'-'.repeat(80)}\n`), { serializers: [(text) => text] });
  });
});

describe('starting up', () => {
  it('reads none of the large libraries for `banger ls`', async () => {
    const { metafile } = await build({
      absWorkingDir: join(import.meta.dirname, '../..'),
      entryPoints: ['bin/banger.ts'],
      bundle: true,
      splitting: true,
      format: 'esm',
      platform: 'node',
      outdir: 'out',
      write: false,
      metafile: true,
      external: ['*/daemon/main.ts'],
    });
    const chunks = ['out/banger.js'];
    const ls = Object.entries(metafile.outputs).find(
      ([, output]) => output.entryPoint === 'src/cli/commands/vm/list.ts',
    );
    assert.ok(ls, 'vm-list has a chunk of its own');
    chunks.push(ls[0]);
    for (const chunk of chunks) {
      for (const { path, kind } of metafile.outputs[chunk]?.imports ?? []) {
        if (kind === 'import-statement' && path.startsWith('out/') && !chunks.includes(path)) chunks.push(path);
      }
    }
    const inputs = chunks.flatMap((chunk) => Object.keys(metafile.outputs[chunk]?.inputs ?? {}));
    const packages = new Set(inputs.flatMap((input) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(input)?.[1] ?? []));
    assert.deepEqual([...packages], ['commander']);
    assert.ok(inputs.includes('src/cli/commands/vm/list.ts'));
    assert.ok(!inputs.includes('src/cli/commands/vm/start.ts'), 'other commands are not read');
    // neither the schemas nor the contract
    const api = inputs.filter((input) => input.startsWith('src/api/'));
    assert.deepEqual(api.sort(), ['src/api/addresses.ts', 'src/api/problem.ts']);
  });
});
