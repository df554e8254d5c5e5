/** Manual pages of the command line, from the command table: banger(1) and one page per command. */
import type { Command } from '../../src/cli/command.ts';
import { type Entry, type Group, NOUNS, namesOf } from '../../src/cli/entry.ts';
import { describeOptions } from '../../src/cli/parse.ts';
import { REGISTRY } from '../../src/cli/registry.ts';
import type { Block, Page } from './mdoc.ts';

const GROUPS: readonly Group[] = ['Daily commands', 'Setting up and looking'];

const EXIT_STATUS = {
  terms: [
    { term: '0', text: 'Done.' },
    { term: '1', text: 'Something went wrong.' },
    { term: '2', text: 'The command line or the configuration is wrong.' },
    { term: '3', text: 'The daemon cannot be reached.' },
    { term: '4', text: 'There is no such thing.' },
    { term: '5', text: 'It is in use, or it exists already.' },
    { term: '6', text: 'A check of this machine failed; nothing was touched.' },
    { term: '7', text: 'It took too long.' },
  ],
};

/** Other names of the pages of commands, by the name of the page. */
export function pageAliases(): { alias: string; page: string }[] {
  return REGISTRY.flatMap((entry) =>
    entry.aliases.map((alias) => ({ alias: pageName(alias), page: pageName(entry.path) })),
  );
}

export async function commandPages(): Promise<Page[]> {
  return [overviewPage(), ...(await Promise.all(REGISTRY.map(commandPage)))];
}

async function commandPage(entry: Entry<Command>): Promise<Page> {
  const { default: command } = await entry.load();
  const { description, examples } = command;
  const others = REGISTRY.filter((other) => other !== entry && nounOf(other.path) === nounOf(entry.path));
  return {
    name: pageName(entry.path),
    section: 1,
    about: entry.summary,
    sections: [
      ['SYNOPSIS', namesOf(entry).map((name) => synopsis(name, command))],
      [
        'DESCRIPTION',
        [{ text: `${entry.summary}.` }, ...(description === undefined ? [] : [{ text: finished(description) }])],
      ],
      [
        'OPTIONS',
        [{ terms: describeOptions(command).map(({ flags, help }) => ({ term: flags, text: `${capital(help)}.` })) }],
      ],
      ['EXIT STATUS', [{ text: entry.path === 'exec' ? EXEC_STATUS : 'See `banger`(1).' }]],
      ['EXAMPLES', [{ literal: examples.map((example) => `banger ${example}`) }]],
    ],
    seeAlso: ['banger 1', ...others.map((other) => `${pageName(other.path)} 1`)],
  };
}

const EXEC_STATUS = 'That of the command in the VM; for failures before it, see `banger`(1).';

function overviewPage(): Page {
  const subjects = Object.entries(NOUNS).flatMap(([noun, about]): Block[] => [
    { text: `${about}:` },
    { terms: REGISTRY.filter(({ path }) => nounOf(path) === noun).map(commandTerm) },
  ]);
  return {
    name: 'banger',
    section: 1,
    about: 'persistent Firecracker microVMs with a name',
    sections: [
      ['SYNOPSIS', [{ synopsis: ['banger', '<command>', '[<options>]'] }]],
      [
        'DESCRIPTION',
        [
          {
            text:
              'Gives every project a computer of its own: a microVM with a name, a disk that stays, an address for life ' +
              'and SSH. A daemon owns the VMs; every command that needs it starts it. ' +
              'Where Firecracker cannot run, `fcqemu`(1) takes its place.',
          },
          {
            text:
              'Each command has a page: `banger vm list` is described in `banger-vm-list`(1). ' +
              '`banger setup` sets this machine up, `banger doctor` says what it lacks.',
          },
          ...GROUPS.flatMap((group): Block[] => [
            { text: `${group}:` },
            { terms: REGISTRY.filter((entry) => entry.group === group).map(commandTerm) },
          ]),
          ...subjects,
        ],
      ],
      [
        'ENVIRONMENT',
        [
          {
            terms: [
              {
                term: 'BANGER_HOME',
                text: 'Directory of an instance of its own: configuration, state, cache, disks and socket are below it.',
              },
              {
                term: 'BANGER_...',
                text: 'A setting: the key in capitals with an underscore for each dot. See `banger.toml`(5).',
              },
              { term: 'BANGER_LOG', text: 'Level of the log of the daemon: debug, info, warn, error.' },
              { term: 'NO_COLOR, FORCE_COLOR', text: 'No colours, or colours in any case.' },
            ],
          },
        ],
      ],
      [
        'FILES',
        [
          {
            terms: [
              {
                term: '/etc/banger/config.toml, ~/.config/banger/config.toml',
                text: 'Configuration, see `banger.toml`(5).',
              },
              {
                term: '/var/lib/banger, ~/.local/state/banger',
                text: 'State and disks, for root and for other users.',
              },
              { term: '/run/banger/bangerd.sock, $XDG_RUNTIME_DIR/banger/bangerd.sock', text: 'Socket of the daemon.' },
            ],
          },
        ],
      ],
      ['EXIT STATUS', [EXIT_STATUS]],
      [
        'EXAMPLES',
        [{ literal: ['banger run web', 'banger ssh web', 'banger exec web -- uname -a', 'banger rm --force web'] }],
      ],
    ],
    seeAlso: [
      ...REGISTRY.filter(({ group }) => group !== undefined).map(({ path }) => `${pageName(path)} 1`),
      'fcqemu 1',
      'banger.toml 5',
      'bundle.json 5',
      'recipe 5',
    ],
  };
}

function synopsis(name: string, { positionals, behindDashes }: Command): Block {
  const words = positionals.map((positional) => {
    const optional = positional.startsWith('[');
    const inner = optional ? positional.slice(1, -1) : positional;
    if (inner.replace(/\.\.\.$/, '') === behindDashes) return `[-- <${inner}>]`;
    return optional ? `[<${inner}>]` : `<${inner}>`;
  });
  return { synopsis: ['banger', ...name.split(' '), '[<options>]', ...words] };
}

function commandTerm({ path, aliases, summary }: Entry): { term: string; text: string } {
  const daily = aliases.find((alias) => !alias.includes(' '));
  return { term: `banger ${daily ?? path}`, text: `${summary}. See \`${pageName(path)}\`(1).` };
}

function pageName(path: string): string {
  return `banger-${path.replaceAll(' ', '-')}`;
}

/** The first of two words. */
function nounOf(path: string): string | undefined {
  return path.includes(' ') ? path.split(' ')[0] : undefined;
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function finished(text: string): string {
  return /[.:!?]$/.test(text) || text.includes('\n  ') ? text : `${text}.`;
}
