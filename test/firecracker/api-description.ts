/** Firecracker's own description of its API, where a copy lies beside the project. */
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import type { VmmRequest } from '../../src/firecracker/requests.ts';

interface Schema {
  $ref?: string;
  type?: string;
  enum?: unknown[];
  required?: string[];
  properties?: Record<string, Schema>;
  items?: Schema;
  minimum?: number;
  maximum?: number;
}

interface Description {
  paths: Record<string, Record<string, { parameters?: { in: string; name: string; schema?: Schema }[] }>>;
  definitions: Record<string, Schema>;
}

const file = fileURLToPath(new URL('../../../shared/firecracker-api.yaml', import.meta.url));

export const skip = existsSync(file) ? false : 'no copy of firecracker-api.yaml beside the project';

const description: Description = skip ? { paths: {}, definitions: {} } : parse(readFileSync(file, 'utf8'));

/** What Firecracker would not understand about a request; empty when it is as described. */
export function requestProblems({ method, path, body }: VmmRequest): string[] {
  const entry = Object.entries(description.paths).find(([template]) => matches(template, path));
  const operation = entry?.[1][method.toLowerCase()];
  if (!entry || !operation) return [`${method} ${path} is not described`];
  const parameters = operation.parameters ?? [];
  const schema = parameters.find((parameter) => parameter.in === 'body')?.schema;
  if (schema === undefined) return body === undefined ? [] : [`${method} ${path} takes no body`];
  if (body === undefined) return [`${method} ${path} needs a body`];
  const found = valueProblems(schema, body, 'body');
  for (const { name } of parameters.filter((parameter) => parameter.in === 'path')) {
    const given = path.split('/')[entry[0].split('/').indexOf(`{${name}}`)];
    if ((body as Record<string, unknown>)[name] !== given) found.push(`body.${name} is not the ${given} of the path`);
  }
  return found;
}

function matches(template: string, path: string): boolean {
  return new RegExp(`^${template.replace(/\{\w+\}/g, '\\w+')}$`).test(path);
}

function resolve(schema: Schema): Schema {
  const name = schema.$ref?.replace('#/definitions/', '');
  return name === undefined ? schema : resolve(description.definitions[name] ?? {});
}

function valueProblems(unresolved: Schema, value: unknown, path: string): string[] {
  const schema = resolve(unresolved);
  if (schema.enum && !schema.enum.includes(value)) return [`${path}: ${value} is none of ${schema.enum}`];
  const actual = Array.isArray(value) ? 'array' : Number.isInteger(value) ? 'integer' : typeof value;
  if (schema.type !== undefined && actual !== schema.type) return [`${path}: ${actual} instead of ${schema.type}`];
  if (Array.isArray(value))
    return value.flatMap((item, at) => valueProblems(schema.items ?? {}, item, `${path}[${at}]`));
  if (typeof value === 'number') return numberProblems(schema, value, path);
  if (typeof value !== 'object' || value === null) return [];
  const { properties = {}, required = [] } = schema;
  const missing = required.filter((name) => !(name in value)).map((name) => `${path}.${name}: missing`);
  const wrong = Object.entries(value).flatMap(([name, member]) => {
    const known = properties[name];
    return known ? valueProblems(known, member, `${path}.${name}`) : [`${path}.${name}: unknown`];
  });
  return [...missing, ...wrong];
}

function numberProblems({ minimum = -Infinity, maximum = Infinity }: Schema, value: number, path: string): string[] {
  return value < minimum || value > maximum ? [`${path}: ${value} is not from ${minimum} to ${maximum}`] : [];
}
