import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { QUESTIONS } from '../../src/cli/completion/known.ts';
import type { Shell } from '../../src/cli/completion/script.ts';
import { tempDir } from '../support/temp-dir.ts';
import { bundle, cli, operation, snapshot, vm } from './cli.ts';

const missing = (program: string, ...args: string[]) =>
  spawnSync(program, args).error ? `${program} is not installed here` : false;

/** What the `banger` of the playground answers, by what it is asked. */
const ANSWERS: Record<keyof typeof QUESTIONS, string> = {
  vm: 'web worker',
  'trashed-vm': 'gone',
  'kept-disk': 'old-web',
  snapshot: 'first second',
  image: 'dev dev-old',
  bundle: 'debian-bookworm',
  operation: '3f2a',
  'vmm-release': '1.13.1 1.16.1',
};

/** What every shell offers where the cursor is at the end of a line; slashes and colons at the end of a word left out. */
const OFFERS: Record<string, string[]> = {
  'banger st': ['start', 'stats', 'stop', 'storage'],
  'banger vmm remove 1.1': ['1.13.1', '1.16.1'],
  'banger daemon s': ['start', 'status', 'stop'],
  'banger --quiet daemon r': ['run'],
  // VMs
  'banger start w': ['web', 'worker'],
  'banger vm start w': ['web', 'worker'],
  'banger start web w': ['web', 'worker'],
  'banger rm -f w': ['web', 'worker'],
  'banger run w': ['web', 'worker'],
  'banger create w': [],
  'banger rename w': ['web', 'worker'],
  'banger rename web w': [],
  'banger disk list w': ['web', 'worker'],
  'banger disk resize --work 20G w': ['web', 'worker'],
  'banger dns status --explain w': ['web', 'worker'],
  'banger snapshot restore web f': ['first'],
  'banger snapshot diff web first ': ['first', 'second'],
  'banger undelete ': ['gone'],
  'banger trash empty gone g': ['gone'],
  'banger disk delete ': ['old-web'],
  'banger operation wait ': ['3f2a'],
  // what they are made from
  'banger create web --image d': ['debian-bookworm', 'dev', 'dev-old'],
  'banger run -i d': ['debian-bookworm', 'dev', 'dev-old'],
  'banger rebase web --image=dev-': ['dev-old'],
  'banger run --image dev w': ['web', 'worker'],
  'banger image show d': ['dev', 'dev-old'],
  'banger image delete dev d': ['dev', 'dev-old'],
  'banger image rename d': ['dev', 'dev-old'],
  'banger image rename dev d': [],
  'banger image diff dev d': ['debian-bookworm', 'dev', 'dev-old'],
  'banger bundle use d': ['debian-bookworm'],
  'banger bundle show d': ['debian-bookworm'],
  'banger image import notes.txt --bundle d': ['debian-bookworm'],
  // files, and paths where a name may stand too
  'banger image export dev no': ['notes.txt'],
  'banger image build no': ['notes.txt'],
  'banger image validate --packages no': ['notes.txt'],
  'banger image build --from d': ['debian-bookworm', 'dev', 'dev-old'],
  'banger bundle import n': ['notes.txt', 'nursery'],
  'banger bundle adopt n': ['nursery'],
  'banger bundle verify nur': [],
  'banger bundle verify ./n': ['./nursery'],
  'banger create web --work-disk-from ': ['old-web'],
  'banger create web --work-disk-from ./no': ['./notes.txt'],
  'banger cp n': ['notes.txt', 'nursery'],
  'banger cp notes.txt w': ['web', 'worker'],
  'banger cp web:n': [],
  'banger exec web cat no': ['notes.txt'],
  'banger run web -- cat no': ['notes.txt'],
  // options and their values
  'banger create --m': ['--memory', '--meta-data'],
  'banger exec --no-': ['--no-stdin', '--no-tty'],
  'banger exec --env A=b w': ['web', 'worker'],
  'banger create web --memory ': [],
  'banger vm undelete gone --as w': [],
  'banger create web --restart ': ['always', 'never', 'on-failure'],
  'banger set web --restart=on': ['on-failure'],
  'banger wait web --for ': ['cloud-init', 'port=', 'ready', 'running', 'ssh', 'stopped', 'suspended'],
  'banger wait web --for=s': ['ssh', 'stopped', 'suspended'],
  'banger doctor s': ['ssh', 'start'],
  'banger completion f': ['fish'],
};
const LINES = Object.keys(OFFERS);

/** A directory with files to complete, the script of a shell, and a `banger` that answers what completion asks. */
async function playground(t: TestContext, shell: Shell) {
  const dir = await tempDir(t);
  const cases = Object.entries(QUESTIONS).map(([kind, question]) =>
    `"${question}") printf '%s\\n' ${ANSWERS[kind as keyof typeof ANSWERS]} ;;\n`.replace('"banger ', '"'),
  );
  await mkdir(join(dir, 'bin'));
  await mkdir(join(dir, 'nursery'));
  await writeFile(join(dir, 'bin/banger'), `#!/bin/sh\ncase "$*" in\n${cases.join('')}*) exit 1 ;;\nesac\n`);
  await chmod(join(dir, 'bin/banger'), 0o755);
  await writeFile(join(dir, 'notes.txt'), '');
  await writeFile(join(dir, 'completion'), (await cli(`completion ${shell}`, {})).stdout);
  return dir;
}

/**
 * Runs a shell's program in a playground: it reads `LINES` and prints a line for each, offers with tabs between.
 * @returns what was offered, by line
 */
function offersBy(dir: string, program: string, args: string[]): Record<string, string[]> {
  const text = execFileSync(program, args, {
    cwd: dir,
    encoding: 'utf8',
    input: `${LINES.join('\n')}\n`,
    env: { PATH: `${join(dir, 'bin')}:${process.env.PATH}`, HOME: dir, TERM: 'dumb' },
    timeout: 60_000,
  });
  const lines = text.split('\n').slice(0, -1);
  assert.equal(lines.length, LINES.length, text);
  return Object.fromEntries(
    LINES.map((line, i) => {
      const offers = (lines[i] ?? '').split('\t').map((offer) => offer.replace(/[/:]$/, ''));
      return [line, [...new Set(offers.filter(Boolean))].sort()];
    }),
  );
}

describe('completion for bash', { skip: missing('bash', '--version') }, () => {
  const read = `
    source ./completion
    compopt() { :; }
    while IFS= read -r COMP_LINE; do
      COMP_POINT=\${#COMP_LINE} COMP_WORDS=()
      rest=$COMP_LINE
      # as bash itself does it: cut at blanks, and around = and :
      while [[ $rest =~ ^([[:space:]]*)([=:]|[^=:[:space:]]+)(.*)$ ]]; do
        COMP_WORDS+=("\${BASH_REMATCH[2]}")
        rest=\${BASH_REMATCH[3]}
      done
      if [[ -n $rest ]]; then COMP_WORDS+=(''); fi
      COMP_CWORD=$((\${#COMP_WORDS[@]} - 1))
      _banger
      (IFS=$'\\t'; printf '%s\\n' "\${COMPREPLY[*]}")
    done`;

  it('offers what there is', async (t) => {
    const dir = await playground(t, 'bash');
    assert.deepEqual(offersBy(dir, 'bash', ['--norc', '-c', read]), OFFERS);
  });

  it('runs nothing that stands in a name', async (t) => {
    const dir = await playground(t, 'bash');
    await writeFile(join(dir, 'bin/banger'), `#!/bin/sh\necho 'dev$(touch ran)\`touch ran\`'\n`);
    const offers = offersBy(dir, 'bash', ['--norc', '-c', read]);
    assert.deepEqual(offers['banger image show d'], ['dev$(touch ran)`touch ran`']);
    assert.equal(existsSync(join(dir, 'ran')), false);
  });
});

describe('completion for zsh', { skip: missing('zsh', '--version') }, () => {
  /** Runs in a terminal of its own and writes down what completion adds, then a line with a dot. */
  const inner = `
    PS1= PS2=
    unsetopt prompt_cr prompt_sp
    stty -echo
    autoload -Uz compinit && compinit -u -D
    source ./completion
    compadd() {
      local -a hits
      # what only filters its arrays offers nothing by itself
      if (( ! \${@[(I)-[OAD]]} )); then
        builtin compadd -O hits "$@"
        print -rl -- $hits >> offers
      fi
      builtin compadd "$@"
    }
    capture() {
      _main_complete
      print -r -- . >> offers
    }
    zle -C capture list-choices capture
    bindkey '^I' capture
    print -r -- rea""dy`;
  const outer = `
    zmodload zsh/zpty
    zpty shell zsh -f -i
    zpty -w shell 'source ./inner'
    zpty -r -m shell text '*ready*'
    while IFS= read -r line; do
      : > offers
      zpty -w -n shell "$line"$'\\t'
      for i in {1..500}; do
        [[ $(tail -n 1 offers) == . ]] && break
        sleep 0.02
      done
      print -r -- \${(pj:\\t:)\${(f)"$(<offers)"}[1,-2]}
      zpty -w -n shell $'\\x15'
    done
    zpty -d shell`;

  it('offers what there is', async (t) => {
    const dir = await playground(t, 'zsh');
    await writeFile(join(dir, 'inner'), inner);
    const offers = offersBy(dir, 'zsh', ['-f', '-c', outer]);
    // zsh keeps what stands before the last slash or the equals sign to itself
    const last = (words: string[]) => words.map((word) => word.replace('./', ''));
    assert.deepEqual(offers, Object.fromEntries(LINES.map((line) => [line, last(OFFERS[line] ?? [])])));
  });
});

describe('completion for fish', { skip: missing('fish', '--version') }, () => {
  const read = `
    source ./completion
    while read -l line
      set -l offers (complete -C $line | string split -f 1 \\t | string replace -r '^--[a-z]+=(?=.)' '')
      echo (string join \\t -- $offers)
    end`;

  it('offers what there is', async (t) => {
    const dir = await playground(t, 'fish');
    assert.deepEqual(offersBy(dir, 'fish', ['--no-config', '-c', read]), OFFERS);
  });
});

describe('what completion asks', () => {
  const disk = { path: '/d', mount: null, apparentBytes: 1, allocatedBytes: 1 };
  const image = {
    id: '0a1b2c3d',
    name: 'dev',
    arch: 'x86_64',
    base: 'debian-bookworm',
    digest: '',
    sizeBytes: 1,
    allocatedBytes: 1,
    createdAt: '2026-01-02T03:04:05.000Z',
    usedBy: [],
    problem: null,
    templates: 0,
  };
  const trashed = {
    id: '0a1b2c3d',
    deletedAt: '2026-01-02T03:04:05.000Z',
    image: 'dev',
    address: '172.30.0.2',
    purgedAt: '2026-01-03T03:04:05.000Z',
    diskBytes: 1,
  };
  const script = {
    listVms: () => [vm('web'), vm('worker')],
    listTrash: () => ['gone', 'gone', 'lost'].map((name) => ({ ...trashed, name })),
    listDisks: () => [
      { ...disk, vm: 'web', role: 'root' as const, name: null },
      { ...disk, vm: 'web', role: 'work' as const, name: null },
      { ...disk, vm: null, role: 'kept' as const, name: 'old-web' },
    ],
    listSnapshots: () => ['before-upgrade', 'first', 'first'].map((name) => snapshot(name)),
    listImages: () => [image],
    listBundles: () => [bundle],
    listOperations: () => [operation({ id: '3f2a' })],
  };
  const names: Record<keyof typeof QUESTIONS, string> = {
    vm: 'web\nworker\n',
    'trashed-vm': 'gone\nlost\n',
    'kept-disk': 'old-web\n',
    snapshot: 'before-upgrade\nfirst\n',
    image: 'dev\n',
    bundle: 'debian-bookworm\n',
    operation: '3f2a\n',
    'vmm-release': '1.13.1\n1.16.1\n',
  };

  it('is answered with one name a line, each once', async (t) => {
    const home = await tempDir(t);
    for (const version of ['1.16.1', '1.13.1']) await mkdir(join(home, 'state', 'vmm', version), { recursive: true });
    for (const [kind, question] of Object.entries(QUESTIONS)) {
      const { stdout } = await cli(question.replace('banger ', ''), script, { env: { BANGER_HOME: home } });
      assert.equal(stdout, names[kind as keyof typeof names], question);
    }
    assert.equal((await cli('disk list --names', script)).stdout, 'web\nold-web\n');
  });

  it('starts no daemon, and is answered with nothing where none runs', async (t) => {
    const env = { BANGER_HOME: await tempDir(t) };
    for (const question of Object.values(QUESTIONS)) {
      const silent = { status: 0, stdout: '', stderr: '' };
      assert.deepEqual(await cli(question.replace('banger ', ''), { unreachable: true }, { env }), silent, question);
    }
  });
});

describe('completion', () => {
  it('is refused for shells nobody has written one for', async () => {
    const { status, stderr } = await cli('completion tcsh', {});
    assert.deepEqual([status, stderr.split('\n')[0]], [2, 'banger: There is no completion for "tcsh".']);
  });
});
