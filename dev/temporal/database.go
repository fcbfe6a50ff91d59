package main

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/metrics"
	"go.temporal.io/server/common/persistence"
	"go.temporal.io/server/common/persistence/serialization"
	"go.temporal.io/server/common/persistence/sql"
	"go.temporal.io/server/common/persistence/sql/sqlplugin"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/common/resolver"
	"go.temporal.io/server/common/searchattribute/sadefs"
	schema "go.temporal.io/server/schema/sqlite"
	"google.golang.org/protobuf/types/known/durationpb"
)

// database is the SQLite store that all services share.
type database struct {
	sql  *config.SQL
	lock *os.File // held while the server runs; nil in memory
}

// openDatabase returns the store kept in file, which it creates when missing; an empty
// file means a store in memory. Two servers on one file would fight for its shard
// until both fail, so the second one gets an error here.
func openDatabase(file string) (*database, error) {
	if file == "" {
		return &database{sql: &config.SQL{
			PluginName:        sqlite.PluginName,
			DatabaseName:      "temporal-dev",
			ConnectAttributes: map[string]string{"mode": "memory", "cache": "shared"},
		}}, nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, fmt.Errorf("make the database's folder: %w", err)
	}
	lock, err := os.OpenFile(file+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the database's lock: %w", err)
	}
	db := &database{
		lock: lock,
		sql: sqliteFile(file, map[string]string{
			// With the rollback journal each small transaction costs two fsyncs or more. The
			// write-ahead log at NORMAL syncs at checkpoints only: a killed process loses
			// nothing, a power cut can lose the last transactions but not the file.
			"journal_mode": "WAL",
			"synchronous":  "NORMAL",
		}),
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		db.unlock()
		return nil, fmt.Errorf("lock database %s: %w: another temporal-dev uses it; stop that one or choose another -db", file, err)
	}
	if err := createSchema(file); err != nil {
		db.unlock()
		return nil, err
	}
	return db, nil
}

func sqliteFile(file string, attributes map[string]string) *config.SQL {
	attributes["mode"] = "rwc"
	return &config.SQL{
		PluginName: sqlite.PluginName,
		// The plugin puts the name into a file: URI as it is.
		DatabaseName:      (&url.URL{Path: file}).EscapedPath(),
		ConnectAttributes: attributes,
	}
}

// createSchema makes the tables when file does not exist. They are made in another file
// that is then renamed: a process killed half way must not leave half a schema behind.
func createSchema(file string) error {
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		if err != nil {
			return fmt.Errorf("open the database: %w", err)
		}
		return nil
	}
	partial := file + ".new"
	if err := os.Remove(partial); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove an unfinished database: %w", err)
	}
	if err := schema.SetupSchema(sqliteFile(partial, map[string]string{"synchronous": "OFF"})); err != nil {
		return fmt.Errorf("create the tables in %s: %w", partial, err)
	}
	if err := os.Rename(partial, file); err != nil {
		return fmt.Errorf("put the new database in place: %w", err)
	}
	return nil
}

// unlock lets another server use the file.
func (db *database) unlock() {
	if db.lock != nil {
		_ = db.lock.Close() // releases the lock whatever it returns
	}
}

func (db *database) persistence() config.Persistence {
	return config.Persistence{
		DefaultStore:     sqlite.PluginName,
		VisibilityStore:  sqlite.PluginName,
		NumHistoryShards: 1,
		DataStores:       map[string]config.DataStore{sqlite.PluginName: {SQL: db.sql}},
	}
}

// registerNamespace creates the namespace, or gives an existing one the retention and
// the search attributes that it lacks; its UUID stays. It writes to the database before
// the services start, because each of them sees a later change in its own good time,
// and until the last one has, starts and upserts fail.
func (db *database) registerNamespace(ctx context.Context, name string, retention time.Duration, attributes map[string]enumspb.IndexedValueType) error {
	fail := func(err error) error { return fmt.Errorf("register namespace %s: %w", name, err) }
	store, err := sql.NewSQLDB(sqlplugin.DbKindMain, db.sql, resolver.NewNoopResolver(), log.NewNoopLogger(), metrics.NoopMetricsHandler)
	if err != nil {
		return fail(err)
	}
	defer store.Close()
	fresh, err := schema.NewNamespaceConfig(clusterName, name, false, nil)
	if err != nil {
		return fail(err)
	}
	detail := fresh.Detail
	rows, err := store.SelectFromNamespace(ctx, sqlplugin.NamespaceFilter{Name: &name})
	if err != nil && !errors.Is(err, stdsql.ErrNoRows) {
		return fail(err)
	}
	exists := len(rows) > 0
	serializer := serialization.NewSerializer()
	if exists {
		detail, err = serializer.NamespaceDetailFromBlob(persistence.NewDataBlob(rows[0].Data, rows[0].DataEncoding))
		if err != nil {
			return fail(err)
		}
	}
	if detail.Config.CustomSearchAttributeAliases, err = assignFields(detail.Config.GetCustomSearchAttributeAliases(), attributes); err != nil {
		return fail(err)
	}
	detail.Config.Retention = durationpb.New(retention)
	blob, err := serializer.NamespaceDetailToBlob(detail)
	if err != nil {
		return fail(err)
	}
	if exists {
		rows[0].Data, rows[0].DataEncoding = blob.GetData(), blob.GetEncodingType().String()
		_, err = store.UpdateNamespace(ctx, &rows[0])
	} else {
		row := sqlplugin.NamespaceRow{Name: name, Data: blob.GetData(), DataEncoding: blob.GetEncodingType().String()}
		if row.ID, err = primitives.ParseUUID(detail.Info.GetId()); err != nil {
			return fail(err)
		}
		_, err = store.InsertIntoNamespace(ctx, &row)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// assignFields gives each attribute a column of the visibility table: an SQL store has a
// few per type (Keyword01, Keyword02, ...), and a namespace maps them to its own names.
func assignFields(aliases map[string]string, attributes map[string]enumspb.IndexedValueType) (map[string]string, error) {
	fields := sadefs.GetDBIndexSearchAttributes(nil).GetCustomSearchAttributes()
	assigned := map[string]string{}
	fieldOf := map[string]string{}
	for field, alias := range aliases {
		assigned[field], fieldOf[alias] = alias, field
	}
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		want := attributes[name]
		if field, ok := fieldOf[name]; ok {
			if fields[field] != want {
				return nil, fmt.Errorf("search attribute %s is registered as %s, not %s: use another name or another -db", name, fields[field], want)
			}
			continue
		}
		free := ""
		for _, field := range slices.Sorted(maps.Keys(fields)) {
			if fields[field] == want && assigned[field] == "" {
				free = field
				break
			}
		}
		if free == "" {
			return nil, fmt.Errorf("no room for search attribute %s: SQLite holds no more of type %s in a namespace", name, want)
		}
		assigned[free] = name
	}
	return assigned, nil
}
