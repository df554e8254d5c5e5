/** Manual pages of the configuration and of the two file formats, from the table of settings and from the published schemas. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { listSettings, type Setting, variableOf } from '../../src/config/settings.ts';
import type { Block, Page } from './mdoc.ts';

const DOCS = join(import.meta.dirname, '../../docs');

/** What is used of a JSON schema. */
interface Schema {
  type?: string;
  description?: string;
  default?: unknown;
  enum?: readonly string[];
  required?: readonly string[];
  properties?: Record<string, Schema>;
  additionalProperties?: Schema | false;
  items?: Schema;
  anyOf?: readonly Schema[];
}

/** What a key holds, for people. */
const TYPES: Record<string, string> = {
  array: 'a list',
  boolean: 'true or false',
  integer: 'a whole number',
  number: 'a number',
  object: 'a table',
  string: 'a text',
};

export function formatPages(): Page[] {
  return [configurationPage(), bundlePage(), recipePage()];
}

function configurationPage(): Page {
  return {
    name: 'banger.toml',
    section: 5,
    about: 'configuration of banger',
    sections: [
      [
        'DESCRIPTION',
        [
          {
            text:
              'banger needs no configuration. Where there is one, it is read from `/etc/banger/config.toml` and then from ' +
              '`$XDG_CONFIG_HOME/banger/config.toml` (`~/.config/banger/config.toml`); with `BANGER_HOME` set, from ' +
              '`$BANGER_HOME/config.toml` alone. Later values win: built-in values, those of the runtime bundle (`vm.*`), the files, ' +
              'variables, options.',
          },
          {
            text:
              'The files are TOML. Sizes and durations are texts with a unit, such as 512MiB or 1m30s. Paths are absolute or begin ' +
              'with ~/. A key that does not exist is an error. The daemon reads its configuration when it starts: after a change, run ' +
              '`banger daemon stop`.',
          },
        ],
      ],
      ['SETTINGS', [{ terms: listSettings().map(settingTerm) }]],
      ['EXAMPLES', [{ literal: ['[vm]', 'memory = "2GiB"', '', '[network]', 'pool = "10.77.0.0/16"'] }]],
    ],
    seeAlso: ['banger 1', 'banger-config-show 1', 'banger-config-check 1'],
  };
}

function settingTerm(setting: Setting<unknown>): { term: string; text: string } {
  const { key, kind, about, builtInText } = setting;
  // those whose value depends on the machine say so in words
  const builtIn = builtInText ?? kind.write(setting.builtIn(NO_FACTS) as NonNullable<unknown>);
  return {
    term: key,
    text: `${about}. Takes ${kind.expects}. Without configuration: ${builtIn}. Variable: ${variableOf(key)}.`,
  };
}

/** Of no machine: what depends on one has its text. */
const NO_FACTS = {
  paths: { state: '', cache: '', run: '', store: '', bundles: '', configFiles: [] },
  arch: 'x64',
  decided: new Map<string, unknown>(),
};

function bundlePage(): Page {
  return {
    name: 'bundle.json',
    section: 5,
    about: 'description of a runtime bundle of banger',
    sections: [
      [
        'DESCRIPTION',
        [
          {
            text:
              'A runtime bundle is a directory with what VMs boot from: kernel, initrd, kernel modules and root file system. ' +
              'bundle.json names them by paths relative to the directory, with their checksums. `banger bundle build` writes it, ' +
              '`banger bundle verify` checks it, and `banger bundle adopt` makes one for a directory that has none.',
          },
        ],
      ],
      ['KEYS', schemaBlocks('bundle.schema.json')],
    ],
    seeAlso: ['banger-bundle-build 1', 'banger-bundle-verify 1', 'banger-bundle-adopt 1'],
  };
}

function recipePage(): Page {
  return {
    name: 'recipe',
    section: 5,
    about: 'recipe of an image of banger',
    sections: [
      [
        'DESCRIPTION',
        [
          {
            text:
              'A recipe is a TOML file from which `banger image build` makes an image, by running what it says in a temporary VM. ' +
              'Every key may be missing. Paths are relative to the recipe and stay in its directory.',
          },
        ],
      ],
      ['KEYS', schemaBlocks('recipe.schema.json')],
      [
        'EXAMPLES',
        [
          {
            literal: [
              'name = "dev"',
              'packages = ["git", "jq"]',
              'run = ["echo hello > /etc/motd"]',
              '',
              '[[files]]',
              'source = "bashrc"',
              'target = "/root/.bashrc"',
            ],
          },
        ],
      ],
    ],
    seeAlso: ['banger-image-build 1', 'banger-image-validate 1'],
  };
}

function schemaBlocks(file: string): Block[] {
  const schema = JSON.parse(readFileSync(join(DOCS, file), 'utf8')) as Schema;
  return [{ terms: keysOf(schema, '') }];
}

/** Each key with its path, e.g. `files[].source`. */
function keysOf(schema: Schema, above: string): { term: string; text: string }[] {
  return Object.entries(schema.properties ?? {})
    .filter(([key]) => key !== '$schema')
    .flatMap(([key, value]) => {
      const path = `${above}${key}`;
      const inner = value.items?.properties ? value.items : value.properties ? value : undefined;
      const entries = typeof value.additionalProperties === 'object' ? value.additionalProperties : undefined;
      return [
        { term: path, text: describeKey(value, schema.required?.includes(key) ?? false) },
        ...(inner ? keysOf(inner, `${path}${value.items ? '[]' : ''}.`) : []),
        ...(entries ? keysOf(entries, `${path}.NAME.`) : []),
      ];
    });
}

function describeKey(schema: Schema, required: boolean): string {
  const kind = schema.enum ? `one of ${schema.enum.join(', ')}` : (TYPES[schema.type ?? ''] ?? 'a text or a table');
  const about = schema.description === undefined ? '' : `${capital(schema.description)}. `;
  const simple = ['string', 'number', 'boolean'].includes(typeof schema.default) && schema.default !== '';
  const otherwise = simple ? ` Without it: ${schema.default}.` : '';
  return `${about}${capital(kind)}${required ? ', required' : ''}.${otherwise}`;
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
